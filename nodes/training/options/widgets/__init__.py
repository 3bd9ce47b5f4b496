"""The widgets of the settings nodes: a file per node."""
