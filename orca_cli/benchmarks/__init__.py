"""The paper's tasks, one module each, and in `sources` the data of the bodies' own modalities.

The comments in conf/task/NAME.yaml explain the settings of the module NAME. What all readers have
in common, those of a user's own data too, is in `orca_cli.data`. A module's `check_settings` is
called with the settings that it names before anything is read. No benchmark keeps a record of its
preprocessing.
"""
