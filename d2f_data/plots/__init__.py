"""Images that nodes show: plots of losses and paths, samples in a row and on a contact sheet, depth in colours."""
