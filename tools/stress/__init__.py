"""Long runs that look for what tests can't: storms, kills, swaps."""
