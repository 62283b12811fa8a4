"""One server process's life: lock, record, port, logs, end."""
