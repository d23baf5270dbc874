"""Image files as a task; `load` reads for conf/task/images.yaml, benchmarks use `files` too."""

from orca_cli.data.images.reader import load as load
