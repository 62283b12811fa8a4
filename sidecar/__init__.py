"""The MLX server: one process that alone owns the GPU."""

__version__ = "0.1.0"
