"""Hierarchical latent world models: learn from logged images and actions, plan top-down."""

__version__ = "0.1.0"
