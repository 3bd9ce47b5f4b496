"""Training data and training results on disk, independent of ComfyUI.

    files          LoRA files, training states, folders of runs
    image_sets     folders of images as training sets
    reflow         sets of reflow pairs
    plots          plots and other images that nodes show
    fingerprints   hashes of files, tensors, settings and noise schedules

Only safetensors and JSON are read, never a pickle. Files are written under a temporary name and moved into place when
they are complete, so that a crash or a full disk leaves the old file intact. Large packages that few functions need
(kornia, Pillow) are imported inside of these functions, so that ComfyUI starts fast.
"""
