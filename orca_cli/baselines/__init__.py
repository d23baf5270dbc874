"""Simple models on the data of a run, shown beside its error (docs/baselines.md).

Each is fitted in a process of its own with a time limit, on features that this process reads, and
is measured by the task's own error. Whatever happens to one, the run goes on.
"""
