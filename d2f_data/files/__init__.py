"""Single files and folders of runs: whole or not there, with the facts of what is inside."""
