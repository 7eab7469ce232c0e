"""Client of the API for Python programs and the command line; standard library and msgspec only."""

from __future__ import annotations

from leitwolf.client.client import Client

__all__ = ["Client"]
