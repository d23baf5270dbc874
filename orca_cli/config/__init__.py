"""The settings of a run: declared once in `schema`, composed by Hydra in `compose`, checked once; parts from `_target_`."""
