"""Training sets from folders: images with captions, and images with targets."""
