"""The embedded demo model and the scenes that it is trained on."""
