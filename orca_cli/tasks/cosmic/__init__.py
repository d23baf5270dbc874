from orca_cli.tasks.cosmic.reader import load

__all__ = ["load"]
