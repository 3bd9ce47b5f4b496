"""Data on disk: what is trained on and what training leaves behind. Knows nothing of ComfyUI.

Only safetensors and JSON are read, never a pickle. A file is written beside its place and moved there when it is
whole, so that a crash or a full disk leaves the old one.

======================  ===================================================================================
file                    what it does
======================  ===================================================================================
``store``               files that are whole or not there, names that are safe, errors that name the file
``lora_file``           a LoRA in the layout of kohya's sd-scripts
``lora_metadata``       the facts of its training, and the other metadata of its file
``checkpoint``          the complete state of a training run, bit for bit
======================  ===================================================================================

Imports of large optional packages (kornia, Pillow) happen inside functions: the pack has to load fast.
"""
