"""What is reported: rows, their arithmetic and their table. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Row", "goal_text", "median", "percentile", "table"]


def median(values: Sequence[float]) -> float:
    """Return the middle value, of an even number the mean of the two middle ones; NaN of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least ``percent`` of all do not exceed; NaN of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    rank = math.ceil(percent / 100 * len(ordered))
    return ordered[min(max(rank, 1), len(ordered)) - 1]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    ``goal`` None: it is only told. ``at_least``: more is better. ``peer``: what the peer needs, in
    the same unit; in the same run unless the note says otherwise.
    """

    name: str
    value: float
    unit: str
    goal: float | None = None
    at_least: bool = False
    peer: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; a figure that could not be measured reaches none."""
        if self.goal is None:
            return None
        if math.isnan(self.value):
            return False
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    @property
    def ratio(self) -> float | None:
        """The value in terms of the peer's."""
        if not self.peer or not math.isfinite(self.value):
            return None
        return self.value / self.peer

    def document(self) -> dict[str, Any]:
        """Return the row as it is printed by ``--json``; without a finite value it says null."""
        content = asdict(self)
        del content["at_least"]
        content["value"] = round(self.value, 3) if math.isfinite(self.value) else None
        content["peer"] = None if self.peer is None else round(self.peer, 3)
        content["met"] = self.met
        content["ratio"] = None if self.ratio is None else round(self.ratio, 2)
        return content


def goal_text(row: Row) -> str:
    """Return the goal in words."""
    if row.goal is None:
        return ""
    return f"{'>=' if row.at_least else '<='} {row.goal:g}"


def table(rows: Sequence[Row]) -> str:
    """Return all rows as text."""
    lines = [("what", "value", "unit", "goal", "met", "peer", "ratio", "note")]
    lines.extend(
        (
            row.name,
            "-" if math.isnan(row.value) else f"{row.value:.4g}",
            row.unit,
            goal_text(row),
            {True: "yes", False: "NO", None: ""}[row.met],
            "" if row.peer is None else f"{row.peer:.4g}",
            "" if row.ratio is None else f"{row.ratio:.2f}",
            row.note,
        )
        for row in rows
    )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
