"""Image files as a task: `load` is the reader of conf/task/images.yaml, and `files` the samples that benchmarks use too."""

from orca_cli.data.images.reader import load as load
