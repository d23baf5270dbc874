"""The settings of a run: declared in `schema`, composed by Hydra in `compose`, checked once."""
