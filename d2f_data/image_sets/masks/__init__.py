"""Loss masks of a training folder: which file is whose mask, and their pixels."""
