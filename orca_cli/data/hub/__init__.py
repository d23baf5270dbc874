from orca_cli.data.hub.reader import load

__all__ = ["load"]
