"""Folders of images as training sets: read, brought into buckets, augmented, cached and reported."""
