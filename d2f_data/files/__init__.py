"""LoRA files and their metadata, training states, folders of runs, locks, rules for JSON, and atomic writing."""
