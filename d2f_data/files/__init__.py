"""LoRA files and their metadata, training states, folders of runs, and atomic writing."""
