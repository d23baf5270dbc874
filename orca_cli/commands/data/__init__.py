"""`orca data`: the data sets of tasks and sources; each verb is a module of its own."""

from __future__ import annotations

VERBS = {
    "list": "licence, size and addresses of each data set, and whether it is here",
    "get": "download what can be downloaded; resumes where it was interrupted",
    "check": "open the data and look: shapes, classes, NaN, overlaps between splits",
    "path": "print the folder of a data set",
}
ABOUT = "The data sets of tasks and sources: list, download and check them."
EXAMPLES = """\
examples:
  orca data list                       every data set: is it here, size, licence, origin
  orca data list deepsea               its files, addresses, and how to place them by hand
  orca data get deepsea                download it, or verify and unpack what you placed
  orca data check deepsea              open it and look
  orca data get --help                 more about each

Data are stored in $ORCA_HOME/data, one folder each: orca data path."""
