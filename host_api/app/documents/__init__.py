"""Documents: read, cut into chunks, indexed, tagged."""
