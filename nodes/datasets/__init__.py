"""Training sets from folders: images with captions, or images with pixel-aligned targets."""
