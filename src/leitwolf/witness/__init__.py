"""Passive acceptors: shared disks (raw device, shared file, iSCSI LUN)."""

from __future__ import annotations
