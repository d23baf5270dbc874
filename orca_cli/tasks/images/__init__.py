from orca_cli.tasks.images.reader import load

__all__ = ["load"]
