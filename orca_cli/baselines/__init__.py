"""Baselines: simple models fitted to the data of a run and compared with it (docs/baselines.md).

Each baseline is fitted in a separate process with a time limit, on features that this process
reads. The task's own error is computed for it. A baseline that fails does not affect the run.
"""
