"""The paper's tasks, one module each, and in `sources` the data of the bodies' own modalities.

The signature of a module's `load` declares the settings of its task; conf/task/NAME.yaml has those
that differ. `orca_cli.data` has what all readers share, those of a user's own data too. A module's `check_settings` is
called with the settings that it names before anything is read. No benchmark keeps a record of its
preprocessing.
"""
