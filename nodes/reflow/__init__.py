"""Reflow: pairs of noise and latent from a teacher, and how straight a model's paths are."""
