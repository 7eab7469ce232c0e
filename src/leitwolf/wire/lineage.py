"""Histories of one cluster: each forced quorum begins a new one, and they may part.

A history is the log since the last force; its *lineage* is the nonces of all forces, oldest first.
The epoch of its ballots is their number. Standard library only: the guard imports this module.
"""

from __future__ import annotations

__all__ = ["Lineage", "continues", "describe", "shared"]

Lineage = tuple[int, ...]
"""Random numbers of 62 bits; () where nobody ever forced anything."""


def continues(later: Lineage, earlier: Lineage) -> bool:
    """Return whether ``later`` was forced out of ``earlier``: whoever has ``earlier`` gives way."""
    return len(later) > len(earlier) and later[: len(earlier)] == earlier


def shared(one: Lineage, other: Lineage) -> int:
    """Return up to which epoch two histories are the same one."""
    pairs = zip(one, other, strict=False)
    parted = (epoch for epoch, (mine, theirs) in enumerate(pairs) if mine != theirs)
    return next(parted, min(len(one), len(other)))


def describe(lineage: Lineage) -> str:
    """Return a history in words: its epoch, and a part of its nonce as a name."""
    return f"epoch {len(lineage)} ({lineage[-1] & 0xFFFFFF:06x})" if lineage else "epoch 0"
