"""Report of `bench depth`, and its sweep over ranks, budgets and objectives."""
