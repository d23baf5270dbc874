"""The paper's tasks, one module each, and in `sources` the data of the bodies' own modalities.

The signature of a module's `load` declares the settings of its task; conf/task/NAME.yaml has the
settings that differ. `orca_cli.data` has the code that these readers share with the readers of a
user's own data. If a module has a function `check_settings`, the program calls it, with the
settings that are its parameters, before it reads any data. Benchmarks do not record their
preprocessing.
"""
