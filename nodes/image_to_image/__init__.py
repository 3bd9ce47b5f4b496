"""Models that look at a picture: the image condition, and depth as its main use."""
