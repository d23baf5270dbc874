from orca_cli.data.table.reader import load

__all__ = ["load"]
