"""Image-to-image models: concat conditioning on the latent of an image, and depth estimation as its main use."""
