from orca_cli.benchmarks.fsd50k.reader import load

__all__ = ["load"]
