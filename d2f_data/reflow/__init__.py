"""Sets of reflow pairs on disk: plan, writer, reader, manifest and lock."""
