"""Pictures that the nodes draw: losses, paths, depth."""
