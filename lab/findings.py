"""What the demo makes of a fault afterwards: whether it happened at all, and why. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Finding", "adopted", "ran_on", "replaced", "story", "taken_over"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether a fault happened and had its effect, and in words what was found."""

    ok: bool
    text: str


def taken_over(group: str, former: str, now: str) -> Finding:
    """Return whether a group left its owner."""
    if not now:
        return Finding(ok=False, text=f"nobody owns {group}")
    if now == former:
        return Finding(ok=False, text=f"{group} never left {former}")
    return Finding(ok=True, text=f"{group} went from {former} to {now}")


def ran_on(found: Finding, what: str, running: Sequence[int]) -> Finding:
    """Return the finding of a takeover from a node where ``running`` still ran, out of control."""
    if not found.ok or running:
        return found
    return Finding(ok=False, text=f"no {what} ran on: Leitwolf alone should have been frozen")


def replaced(what: str, former: Sequence[int], ended: Sequence[int], now: Sequence[int]) -> Finding:
    """Return whether processes were killed and others serve in their place.

    Args:
        what: they are.
        former: that should be killed.
        ended: those of them that are known to be dead.
        now: that run afterwards.
    """
    if not former:
        return Finding(ok=False, text=f"no {what} was there to be killed")
    if set(former) != set(ended):
        alive = sorted(set(former) - set(ended))
        return Finding(ok=False, text=f"{what} {_numbers(alive)} did not die")
    fresh = sorted(set(now) - set(former))
    if not fresh:
        return Finding(ok=False, text=f"{what} {_numbers(former)} died, none took its place")
    return Finding(ok=True, text=f"{what} {_numbers(former)} died, {_numbers(fresh)} serves")


def adopted(found: Finding, what: str, before: Sequence[int], after: Sequence[int]) -> Finding:
    """Return the finding of a kill that must not touch what runs: the same processes go on."""
    if not found.ok:
        return found
    if not before or sorted(before) != sorted(after):
        text = f"{found.text}; but {what} {_numbers(before)} became {_numbers(after)}"
        return Finding(ok=False, text=text)
    return Finding(ok=True, text=f"{found.text} and adopted {what} {_numbers(before)}")


def _numbers(pids: Sequence[int]) -> str:
    return ", ".join(str(pid) for pid in pids) or "none"


def story(group: str, lines: Sequence[Mapping[str, Any]], placed: str) -> str:
    """Return what happened to a group, by the lines of a timeline; '' if none is about it.

    Args:
        group: whose name it is.
        lines: since the fault, oldest first.
        placed: why the group is where it is; counts if it was placed since.
    """
    failed, restarted = "", ""
    for line in lines:
        for event in line["events"]:
            kind, _, rest = event.partition(" ")
            if kind == "GroupPlaced" and f"group={group} " in rest:
                return placed
            if kind != "ResourceMoved" or f"resource={group}-" not in rest:
                continue
            if "state=failed" in rest:
                failed = failed or line["because"]
            elif failed and "state=online-pending" in rest:
                restarted = ", restarted in place"
    return f"{failed}{restarted}"
