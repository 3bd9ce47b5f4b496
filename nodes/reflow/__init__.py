"""Reflow: noise-latent pairs from a teacher model, and how straight the sampling paths of a model are."""
