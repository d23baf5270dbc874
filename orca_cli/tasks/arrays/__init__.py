from orca_cli.tasks.arrays.reader import load

__all__ = ["load"]
