"""Many runs: grids, search, halving, and their table. `python -m fedray.sweep` runs them."""
