"""Arrays in .npz and .npy files as a task: `load` is the reader of conf/task/arrays.yaml."""

from orca_cli.data.arrays.reader import load as load
