"""Training text encoders together with the model."""
