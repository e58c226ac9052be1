"""Hierarchical latent world models: learn from logged images and actions, plan top-down."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

from echelon.agent import Agent, load
from echelon.types import EchelonError, EchelonWarning

if TYPE_CHECKING:
    from echelon.on_top import load_on_top_of, on_top_of

__all__ = [
    "Agent",
    "EchelonError",
    "EchelonWarning",
    "__version__",
    "load",
    "load_on_top_of",
    "on_top_of",
]


def __getattr__(name: str) -> Any:
    """What trains is imported when it is asked for: it brings HDF5 along."""
    if name not in ("load_on_top_of", "on_top_of"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from echelon import on_top

    return getattr(on_top, name)
