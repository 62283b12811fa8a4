"""mlx-vlm behind one face: loading, families, positions, caches, pausing."""
