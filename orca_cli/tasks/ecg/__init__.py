from orca_cli.tasks.ecg.reader import load

__all__ = ["load"]
