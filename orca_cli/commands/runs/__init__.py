"""`orca runs`: the run folders themselves; each verb is a module of its own."""

from __future__ import annotations

VERBS = {
    "list": "all runs, the newest first: state, error, age, size",
    "show": "one run: what it is, result, decided settings, baselines, picture, files",
    "diff": "two runs side by side: settings, decisions, results, environment",
    "rm": "remove runs, after a question",
    "gc": "what may go: old caches, files moved aside, leftovers of interrupted writes",
}
ABOUT = "The folders of runs: find, look at, compare and remove them."
EXAMPLES = """\
examples:
  orca runs list                            all runs of ./runs (or $ORCA_RUNS)
  orca runs list --where task=digits --where train.lr=1e-4
  orca runs show 1e791e76                   by the end of its name, its name, or its folder
  orca runs diff 1e791e76 66f1304e
  orca runs rm 1e791e76
  orca runs gc                              what could be freed; --yes frees it
  orca runs list --help                     more about each"""
