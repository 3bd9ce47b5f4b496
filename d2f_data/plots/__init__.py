"""Images that nodes show: plots of losses and paths, samples in a row, depth in colours."""
