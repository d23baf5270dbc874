from orca_cli.data.arrays.reader import load as load
