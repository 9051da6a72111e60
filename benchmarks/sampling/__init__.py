"""Which way to choose points needs the fewest of them: pools, learners, strategies, and the race between them."""
