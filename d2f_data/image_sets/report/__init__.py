"""Parts of the report of a training set: captions, what is cut off, the contact sheet."""
