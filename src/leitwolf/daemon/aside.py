"""Setting aside what a node has of a cluster, and what it says afterwards."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

from leitwolf.daemon.bootstrap import BOOTSTRAP_NAME
from leitwolf.daemon.departure import LOCKED_NAME, Departure, load_departure, save_departure
from leitwolf.daemon.giving_way import INTENT_NAME
from leitwolf.store import quarantine
from leitwolf.system.diary import log
from leitwolf.system.durable import sync_folder
from leitwolf.system.settings import Settings
from leitwolf.system.walltime import local_time

__all__ = ["set_aside", "unformed_advice"]

_LOST = "if it was lost, on a member of its cluster: leitwolf node replace NODE"
_NOT_FORMED = "this node is in no cluster: leitwolf init, or leitwolf join TOKEN"


def set_aside(settings: Settings, cluster: str, reason: str) -> None:
    """Move the bootstrap file, the identity and the log into quarantine.

    All goes into the folder of the log first, which then moves as a whole.

    Args:
        settings: directories.
        cluster: name of the cluster, for people.
        reason: why, for people.

    Raises:
        OSError: a file cannot be moved; asked again, it goes on.
    """
    state = settings.state
    log_folder = settings.quorum_log
    log_folder.mkdir(mode=0o700, exist_ok=True)
    names = (BOOTSTRAP_NAME, LOCKED_NAME, INTENT_NAME)
    for path in (*(state / name for name in names), settings.config / "pki"):
        if path.exists():
            _move(path, log_folder / path.name)
    folder = quarantine(log_folder)
    save_departure(
        state,
        Departure(cluster=cluster, reason=reason, folder=str(folder), at_wall=time.time_ns()),
    )
    log.warning("cluster state set aside", folder=str(folder), reason=reason)


def _move(source: Path, target: Path) -> None:
    """Move a file or a folder durably, also to another file system; cut off, it is done again."""
    if not target.exists():
        try:
            source.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(source, target)
    if source.is_dir():  # a whole copy stands there
        shutil.rmtree(source)
    else:
        source.unlink(missing_ok=True)
    for folder in (target.parent, source.parent):
        sync_folder(folder)


def _copy(source: Path, target: Path) -> None:
    """Copy durably; the target is there as a whole or not at all."""
    part = target.with_name(f"{target.name}.part")
    if part.is_dir():
        shutil.rmtree(part)
    if source.is_dir():
        shutil.copytree(source, part)
    else:
        shutil.copy2(source, part)
    for path in (*part.rglob("*"), part):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    part.rename(target)
    sync_folder(target.parent)


def unformed_advice(settings: Settings) -> str:
    """Return what a node in no cluster says: since when, why, and what to do."""
    gone = load_departure(settings.state)
    if gone is None and (settings.config / "pki").exists():
        return f"keys of a node are here, but no state; {_LOST}\n  -> {_NOT_FORMED}"
    if gone is None:
        return _NOT_FORMED
    return (
        f"out of cluster {gone.cluster} since {local_time(gone.at_wall)}: {gone.reason}; "
        f"its state is kept in {gone.folder}\n  -> {_NOT_FORMED}"
    )
