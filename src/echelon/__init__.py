"""Hierarchical latent world models: learn from logged images and actions, plan top-down."""

__version__ = "0.1.0"

from echelon.agent import Agent, load
from echelon.types import EchelonError

__all__ = ["Agent", "EchelonError", "__version__", "load"]
