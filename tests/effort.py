"""How much the long suites try: all, or as many of 2000 parts as LEITWOLF_SIM_RUNS says."""

from __future__ import annotations

import os

__all__ = ["RUNS", "part"]

_ALL = 2_000
RUNS = int(os.environ.get("LEITWOLF_SIM_RUNS", _ALL))
"""Random worlds in the longest suite; each takes a core for about a second."""


def part(full: int, least: int = 3) -> int:
    """Return how many of ``full`` trials there is time for, at least ``least``."""
    return max(least, full * RUNS // _ALL)
