"""Readers of a user's own data: one package for each format, and the code that all readers share.

Every reader of own data ends with a call of `assemble`. The package `untrusted` opens files of
unknown origin.

A reader, in this package and in `benchmarks`, is a function `load` that returns
`interfaces.TaskData`. Its arguments are the settings of conf/task/NAME.yaml, or a frozen dataclass
`settings` with one field for each setting. Annotations declare the types, ranges and choices of the
settings, which are checked before `load` is called. Most readers also take

* data_folder: folder of all data sets; the files of a benchmark are in data_folder/NAME, or in
  `path` if that setting is given,
* cache_folder: folder for generated data and for unpacked or converted copies of files,
* reporter: shows progress, and a note on the data that were read.

Some settings mean the same in every reader. `kind` is the kind of the targets.
`train_on_validation` trains on the validation samples too, as experiments without a validation
split do; the validation samples must not be used for any choice then. `split_seed` is the seed with
which splits are drawn, and `data_seed` the seed with which data are generated; neither is the seed
of the run.

Settings that exclude each other, whatever the files contain, are refused before a file is opened.
Readers, and the functions that open their splits and new data, raise

* ConfigError for settings that contradict each other or the files,
* DataError for files that are missing, damaged or malformed, or contain fewer samples than
  requested,
* UnsafeError for files that would execute code when they are read, that grow as only bombs do, or
  that name paths outside their folder,
* UnavailableError if a format needs a package that is not installed,
* MemoryExhaustedError for an array or a table that is larger than the free memory,
* WorkerError if the process that reads files of unknown origin crashes, or exceeds its limit of
  memory or time,
* StorageError if the cache cannot be written, and InterruptionError if a signal asked to stop.
"""
