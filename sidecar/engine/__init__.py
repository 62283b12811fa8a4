"""Decides what is computed next, and computes it: the one thread that owns MLX."""
