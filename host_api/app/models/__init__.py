"""Providers, capabilities and how a model is asked."""
