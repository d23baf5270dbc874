"""`orca export`: one folder with all that a finished run needs to predict."""
