from orca_cli.benchmarks.cosmic.reader import load

__all__ = ["load"]
