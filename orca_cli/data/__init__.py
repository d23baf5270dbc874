"""A user's own data: a package for each form, and what all readers share, which ends in `assemble`.

`untrusted` opens files that strangers made.

A reader, here and in `benchmarks`, is a function `load` that returns `interfaces.TaskData`. Its
arguments are the settings of conf/task/NAME.yaml, or a frozen dataclass `settings` with a field for
each; their types, ranges and choices are in the annotations, and are checked before it is called.
Most readers also take

* data_folder: where data sets lie; a benchmark's files are looked for in data_folder/NAME, or in
  `path` where that is given,
* cache_folder: where generated data and unpacked or converted copies of files are kept,
* reporter: shows progress, and the note on what was read.

Some settings mean the same everywhere. `kind` is the form of targets. `train_on_validation` trains
on the validation samples too, as experiments without a validation set do; nothing may be chosen on
them then. `split_seed` is the seed of the draw of splits and `data_seed` that of generated data;
neither is the seed of the run.

Settings that exclude each other, whatever the files hold, are refused before a file is opened.
Readers, and the functions that open their splits and new data, raise

* ConfigError for settings that contradict each other or the files,
* DataError for files that are missing, damaged, of another form or hold fewer samples than
  requested,
* UnsafeError for files that would execute code when read, grow as only bombs do, or name places
  outside their folder,
* UnavailableError where a format needs a package that is not installed,
* MemoryExhaustedError for an array or a table that is larger than the free memory,
* WorkerError where the process that reads files of unknown origin crashes, or reaches its limit of
  memory or time,
* StorageError where the cache cannot be written, and InterruptionError where a signal asked to
  stop.
"""
