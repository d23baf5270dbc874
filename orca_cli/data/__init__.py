"""A user's own data: a package for each form, and what all readers share, which ends in `assemble`.

`untrusted` opens files that strangers made.

A reader, here and in `benchmarks`, is a function `load` that returns `interfaces.TaskData`. Its arguments are the settings of
conf/task/NAME.yaml, whose types, ranges and choices are in the signature and are checked before it is called. Most also take

* data_folder: where data sets lie; a benchmark's files are looked for in data_folder/NAME, or in `path` where that is given,
* cache_folder: where generated data and unpacked or converted copies of files are kept,
* reporter: shows progress, and the note on what was read.

The same everywhere: a task's file says its `kind`, the form of targets; `train_on_validation` trains on the validation
samples too, as experiments without a validation set do, and then nothing may be chosen on them; `split_seed` is the seed of
the draw of splits and `data_seed` that of generated data, neither of them the seed of the run.

Settings that exclude or need each other are refused from a table of rules (`own_data.check_rules`) before a file is opened.
Readers raise ConfigError for settings that contradict the files, DataError for files that are missing, damaged, of another
form or hold fewer samples than requested, UnsafeError for files that would execute code when read or that name places outside
their folder, and StorageError where the cache cannot be written.
"""
