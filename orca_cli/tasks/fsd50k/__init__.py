from orca_cli.tasks.fsd50k.reader import load

__all__ = ["load"]
