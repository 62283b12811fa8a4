"""What a person types: the commands of ``mlx-sidecar``."""
