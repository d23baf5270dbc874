"""Run the command line as `python -m orca_cli`."""

import sys

from orca_cli.cli import main

sys.exit(main())
