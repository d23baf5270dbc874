from orca_cli.tasks.listops.reader import load

__all__ = ["load"]
