"""Samples of the user's own prompts, drawn while a LoRA is trained."""
