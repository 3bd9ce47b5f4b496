"""Sets of reflow pairs on disk: plan, writer, reader and manifest."""
