"""Pictures of other sizes for `bench resolution`, what is counted on them, and its report."""
