"""The LoRA trainer, and saving and loading what it makes."""
