"""Pixels on their way from the check of an image to the encoder."""
