from orca_cli.data.table.reader import load as load
