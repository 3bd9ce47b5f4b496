"""Networks of every kind for `bench flow`, what another reading below t_min would be worth, and the tables."""
