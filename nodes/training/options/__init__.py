"""The settings nodes of the trainer, and what they hand to it."""
