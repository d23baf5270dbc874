from orca_cli.tasks.spherical.reader import load

__all__ = ["load"]
