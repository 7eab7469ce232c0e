"""Leitwolf keeps services available on a cluster of Linux machines."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__"]
