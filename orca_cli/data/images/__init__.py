from orca_cli.data.images.reader import load as load
