"""The LoRA of a training run: its adapters, and what its file says about it."""
