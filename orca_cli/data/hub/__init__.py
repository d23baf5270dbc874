from orca_cli.data.hub.reader import load as load
