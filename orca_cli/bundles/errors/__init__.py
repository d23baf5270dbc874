"""The program's errors in NumPy, from saved predictions: written apart from `orca_cli/scoring/`, to which tests compare them.

What they are called with may be a stranger's: arguments are those in `TABLE` alone, and no value of an array is taken for a
size.
"""
