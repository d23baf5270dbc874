"""Pickles of unknown origin, read without running anything."""

from orca_cli.data.untrusted.pickle.reader import unpickle, unpickle_bytes, unpickle_each

__all__ = ["unpickle", "unpickle_bytes", "unpickle_each"]
