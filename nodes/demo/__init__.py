"""The embedded demo model and the rendered scenes that it was trained on."""
