"""What is left of a training run when the node has ended: its LoRA files, and what the node says about it."""
