"""Data on disk: what is trained on and what training leaves behind. Knows nothing of ComfyUI.

``files`` holds single files (LoRAs, states of runs), ``image_sets`` the folders of images, ``reflow`` the sets of noise
and latents, ``plots`` the pictures that are drawn of it all, ``fingerprints`` the hashes that say what is the same.

Only safetensors and JSON are read, never a pickle. A file is written beside its place and moved there when it is
whole, so that a crash or a full disk leaves the old one. Imports of large optional packages (kornia, Pillow) happen
inside functions: the pack has to load fast.
"""
