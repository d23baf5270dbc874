"""A bundle: one file with the records, predictions and statistics of finished runs, and what recomputes all of it.

Nothing here imports torch: a bundle is verified on any laptop, by formulas in NumPy that are independent of those that made it.
"""
