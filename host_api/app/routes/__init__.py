"""The host service's endpoints."""
