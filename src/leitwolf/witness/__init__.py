"""Passive acceptors: shared disks, and values with compare-and-swap outside of the nodes."""

from __future__ import annotations
