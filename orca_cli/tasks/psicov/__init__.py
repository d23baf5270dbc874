from orca_cli.tasks.psicov.reader import load

__all__ = ["load"]
