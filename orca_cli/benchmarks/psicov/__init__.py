from orca_cli.benchmarks.psicov.reader import load

__all__ = ["load"]
