"""HTTP on a Unix socket: the same API for the command line, consoles and programs."""

from __future__ import annotations

from leitwolf.api.app import application
from leitwolf.api.server import serve_unix

__all__ = ["application", "serve_unix"]
