"""The self-test of a shared disk that is a file: two processes, and the mount that it is on."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
from click.testing import CliRunner

from leitwolf.cli.commands import cli
from leitwolf.model.errors import WitnessError
from leitwolf.witness import device, disktest
from leitwolf.witness.device import DirectFile
from leitwolf.witness.disktest import Place, try_file
from leitwolf.witness.format import format_disk
from leitwolf.witness.inspect import check_disk
from leitwolf.witness.mounts import Mount
from leitwolf.witness.otherprocess import OtherProcess


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A file on a file system with direct I/O."""
    path = tmp_path / "disk"
    path.write_bytes(bytes(8192))
    try:
        DirectFile(path).close()
    except WitnessError as error:
        pytest.skip(error.text)
    return path


def mounted(monkeypatch: pytest.MonkeyPatch, kind: str, *options: str) -> None:
    found = Mount(point="/mnt", kind=kind, options=frozenset(options))
    for module in (device, disktest):
        monkeypatch.setattr(module, "find_mount", lambda _: found)


def test_a_file_that_two_processes_share_is_fit(place: Path) -> None:
    """Both checks pass, and nothing is left behind."""
    report = try_file(place, local=True)
    assert [(check.name, check.ok) for check in report.checks] == [
        ("fresh reads", True),
        ("locks", True),
    ]
    report.demand(str(place), "a quorum disk")
    assert list(place.parent.iterdir()) == [place]


def test_a_file_of_this_machine_alone_is_refused(place: Path) -> None:
    """Each node would have a disk of its own."""
    with pytest.raises(WitnessError) as raised:
        try_file(place, local=False)
    assert raised.value.code == "witness-unfit"
    assert "this machine alone" in raised.value.text
    assert "--local" in raised.value.hint
    assert list(place.parent.iterdir()) == [place]


@pytest.mark.parametrize(
    ("kind", "option", "word"),
    [
        ("nfs", "vers=3", "NFS version 3"),
        ("nfs4", "local_lock=all", "locks"),
        ("cifs", "nobrl", "locks"),
        ("fuse.sshfs", "rw", "keep locks"),
        ("virtiofs", "rw", "keep locks"),
        ("cifs", "cache=loose", "stale"),
    ],
)
def test_unsafe_mounts_are_refused_by_every_node(
    place: Path, monkeypatch: pytest.MonkeyPatch, kind: str, option: str, word: str
) -> None:
    """Not only where the command was run."""
    mounted(monkeypatch, kind, option)
    for refused in (lambda: try_file(place, local=False), lambda: DirectFile(place)):
        with pytest.raises(WitnessError) as raised:
            refused()
        assert raised.value.code == "witness-unfit"
        assert word in raised.value.text


def test_a_share_that_caches_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process wrote is not read at once."""
    monkeypatch.setattr(disktest.DirectFile, "read", lambda _, __, length: bytes(length))
    report = try_file(place, local=True)
    assert not report.ok
    with pytest.raises(WitnessError) as raised:
        report.demand(str(place), "a quorum disk")
    assert "cannot be a quorum disk: fresh reads" in raised.value.text


def test_a_share_without_locks_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes would write as the same node."""
    monkeypatch.setattr(disktest.DirectFile, "claim", lambda *_: None)
    report = try_file(place, local=True)
    assert [check.found for check in report.checks if not check.ok] == [
        "two processes hold the lock of one block"
    ]


def test_what_a_node_has_locked_can_be_read_by_others(place: Path) -> None:
    """SMB servers refuse to read or write what is locked: no byte of the disk is."""
    here = DirectFile(place)
    here.claim("", 1, 0, lambda: None)
    everything = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, place.stat().st_size, 0)
    with place.open("rb") as other:
        fcntl.fcntl(other, fcntl.F_OFD_SETLK, everything)
    here.close()


def test_a_scratch_file_that_cannot_be_filled_is_removed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else knows its name."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(WitnessError, match="No space"):
        try_file(place, local=True)
    assert list(place.parent.iterdir()) == [place]


def test_a_place_where_nothing_can_be_made_is_told(place: Path) -> None:
    """By what the kernel says of it, not by the clean-up that finds nothing either."""
    with pytest.raises(WitnessError, match="Not a directory") as raised:
        try_file(place / "below", local=True)
    assert raised.value.code == "witness-denied"


def test_an_error_of_the_second_process_is_raised_here(place: Path) -> None:
    """With its words and its code: it decides what the operator is told."""
    here, there = Place(str(place)), OtherProcess(Place, str(place))
    try:
        behind = place.stat().st_size
        with pytest.raises(WitnessError) as own:
            here.read(behind)
        with pytest.raises(WitnessError) as other:
            there.call("read", behind)
        assert (other.value.code, other.value.text) == (own.value.code, own.value.text)
        assert other.value.code != WitnessError("").code
    finally:
        here.close()
        there.close()


@pytest.mark.parametrize("size", [0, 4096, 8192])
def test_a_file_too_short_for_a_quorum_disk_is_none(place: Path, size: int) -> None:
    """A mistyped name is told as what it is, and the file is closed."""
    place.write_bytes(bytes(size))
    with pytest.raises(WitnessError) as raised:
        check_disk(str(place))
    assert raised.value.code == "witness-unformatted"


def test_a_file_that_became_shorter_is_told_and_can_be_closed(place: Path) -> None:
    """An error of a read holds nothing of the buffer."""
    opened = DirectFile(place)
    place.write_bytes(b"")
    with pytest.raises(WitnessError) as raised:
        opened.read(0, 4096)
    assert "shorter" in raised.value.text
    opened.close()


def test_a_disk_that_cannot_be_made_leaves_no_file(tmp_path: Path) -> None:
    """The next try is not refused because of what the first one left."""
    path = tmp_path / "disk"
    with pytest.raises(WitnessError) as raised:
        format_disk(str(path), cluster=str(uuid4()), region_bytes=1 << 48, create=True)
    assert "--region" in raised.value.hint
    assert not path.exists()


def test_an_interrupted_making_leaves_no_file(tmp_path: Path) -> None:
    """What Ctrl-C left would be a device that is too small, the next time."""
    path = tmp_path / "disk"

    def interrupt(_: str) -> None:
        assert path.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        format_disk(str(path), cluster=str(uuid4()), create=True, progress=interrupt)
    assert not path.exists()


def test_a_file_system_that_tells_no_size_is_not_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of FUSE may count no blocks at all: whether there is room is seen by writing."""
    told = SimpleNamespace(f_blocks=0, f_bavail=0, f_frsize=4096)
    monkeypatch.setattr(os, "fstatvfs", lambda _: told)
    path, size = tmp_path / "disk", 64 << 10
    format_disk(str(path), cluster=str(uuid4()), nodes_max=2, region_bytes=size, create=True)
    told.f_blocks = 1
    with pytest.raises(WitnessError, match="No space"):
        format_disk(f"{path}2", cluster=str(uuid4()), nodes_max=2, region_bytes=size, create=True)


def test_every_block_of_a_new_file_is_written(tmp_path: Path) -> None:
    """No later write has to allocate; where there is no room, nothing was written in vain."""
    path = tmp_path / "disk"
    done = format_disk(
        str(path), cluster=str(uuid4()), nodes_max=2, region_bytes=64 << 10, create=True
    )
    assert path.stat().st_blocks * 512 >= done.used_bytes


def test_a_cluster_that_is_no_uuid_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """A word in its place would be a disk that no cluster takes."""
    path = tmp_path / "disk"
    words = ["quorum", "disk", "format", str(path), "--create", "--cluster", "office"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2
    assert "'office' is no UUID" in done.stderr
    assert not path.exists()
