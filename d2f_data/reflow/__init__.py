"""Sets of reflow pairs on disk."""
