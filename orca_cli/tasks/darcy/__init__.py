from orca_cli.tasks.darcy.reader import load

__all__ = ["load"]
