"""Folders of images as training sets: reading, buckets, augmentation, latent cache, report, image-target pairs."""
