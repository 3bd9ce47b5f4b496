"""What LoRA files say to other programs: ModelSpec, and the settings under the names of kohya's sd-scripts."""
