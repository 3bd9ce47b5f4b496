"""Pictures that nobody here made, for `bench domain`: emoji glyphs, features to compare them by, and its report."""
