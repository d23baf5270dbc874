from orca_cli.data.images.reader import load

__all__ = ["load"]
