"""Tables in .csv, .tsv and .parquet files as a task; `load` reads for conf/task/table.yaml."""

from orca_cli.data.table.reader import load as load
