"""The embedded demo model: a renderer of captioned scenes, a small latent diffusion model, an attribute classifier."""
