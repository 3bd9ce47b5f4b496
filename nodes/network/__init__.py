"""Calling a model's network outside of the host's samplers: conditionings and classifier-free guidance."""
