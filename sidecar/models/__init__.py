"""Models by name, on disk and in memory: what there is, what fits, how it is fetched."""
