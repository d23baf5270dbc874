from orca_cli.tasks.table.reader import load

__all__ = ["load"]
