"""Training data outside ComfyUI: folders, data sets of the library, image-target pairs, reflow pairs."""
