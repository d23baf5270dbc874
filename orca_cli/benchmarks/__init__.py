"""The paper's tasks, one module or package each, and in `sources` the data of the bodies' own modalities.

What is the same for all readers, those of a user's own data too, stands in `orca_cli.data`.
"""
