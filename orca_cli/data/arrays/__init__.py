from orca_cli.data.arrays.reader import load

__all__ = ["load"]
