from orca_cli.tasks.hub.reader import load

__all__ = ["load"]
