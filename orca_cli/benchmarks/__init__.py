"""The paper's tasks, one module each, and in `sources` the data of the bodies' own modalities.

The signature of a module's `load` declares the settings of its task; conf/task/NAME.yaml has those
that differ. `orca_cli.data` has the code that these readers share with those of a user's own data.
If a module has `check_settings`, it is called, with the settings that it names, before anything is
read. No benchmark keeps a record of its preprocessing.
"""
