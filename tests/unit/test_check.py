"""``leitwolf check``: what is missing is named, with what is lost by it and how to get it."""

from __future__ import annotations

import json
import os
import platform
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from tests.unit.test_docs import example

from leitwolf.cli import check
from leitwolf.cli.commands import cli
from leitwolf.model.views import FindingView, StatusView, StrangerView

Patch = pytest.MonkeyPatch


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program listens at."""
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        yield other.getsockname()[1]


def no_file(patch: Patch) -> None:
    patch.setattr(Path, "exists", lambda _: False)


def refuse(*_: object) -> None:
    raise PermissionError(1, "not here")


MISSING: dict[str, tuple[Callable[[Patch], object], Callable[[], check.Finding], str]] = {
    "root": (lambda patch: patch.setattr(os, "geteuid", lambda: 1000), check._root, "uid 1000"),
    "real time": (
        lambda patch: patch.setattr(os, "sched_setscheduler", refuse),
        check._realtime,
        "refused",
    ),
    "nftables": (
        lambda patch: patch.setattr(socket, "socket", refuse),
        check._nftables,
        "not here",
    ),
    "watchdog": (no_file, check._watchdog, "none"),
    "cgroups": (no_file, check._cgroups, "no cgroup version 2"),
    "kernel": (
        lambda patch: patch.setattr(platform, "release", lambda: "5.10.0-28-amd64"),
        check._kernel,
        "5.10.0",
    ),
    "runtime": (
        lambda patch: patch.setattr(check, "_mount_type", lambda _: "ext4"),
        lambda: check._runtime(Path("/var/leitwolf")),
        "/var/leitwolf on ext4",
    ),
    "state": (lambda _: None, lambda: check._state(Path("/proc/nowhere/state")), "No such file"),
    "slow state": (
        lambda patch: patch.setattr(check, "_SYNC_MS_MAX", 0.0),
        lambda: check._state(Path("/var/tmp")),
        "at worst",
    ),
    "daemon": (lambda _: None, lambda: check._cluster(None), "does not answer"),
}
"""What is missing -> how that is played, who looks, and what is said."""


@pytest.mark.parametrize("what", MISSING)
def test_what_is_missing_is_named(monkeypatch: Patch, what: str) -> None:
    """Not ok; the text says what was found, which guarantee is lost, and what to do."""
    play, look, said = MISSING[what]
    with monkeypatch.context() as patch:
        play(patch)
        found = look()
    assert not found.ok
    assert said in found.found
    assert found.lost
    assert found.fix


def test_a_port_that_is_taken_is_named(monkeypatch: Patch, taken: int) -> None:
    """Before a cluster is formed, by protocol and number."""
    monkeypatch.setattr(check, "_PORT_DEFAULT", taken)
    found = check._port(None)
    assert not found.ok
    assert found.found.startswith(f"TCP {taken}: ")
    assert "--port" in found.fix


STRANGER = StrangerView(address="10.0.0.9", count=5)
HALVES = FindingView(code="two-forced-halves", text="TWO FORCED HALVES", fix="leitwolf give-up")


@pytest.mark.parametrize(
    ("look", "view", "said"),
    [
        (check._cluster, example(), "links down: n3 by interconnect"),
        (check._interconnects, example(), "interconnect"),
        (check._strangers, replace(example(), strangers=(STRANGER,)), "10.0.0.9"),
        (check._histories, replace(example(), findings=(HALVES,)), "TWO FORCED HALVES"),
    ],
)
def test_what_is_wrong_with_the_cluster_is_named(
    look: Callable[[StatusView], check.Finding], view: StatusView, said: str
) -> None:
    """A link that is down, one interconnect only, another cluster, two histories."""
    found = look(view)
    assert not found.ok
    assert said in found.found
    assert found.lost
    assert found.fix


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_command_ends_with_1_when_something_is_lost(tmp_path: Path, form: str) -> None:
    """One line each, and two more for what is lost; JSON has all of it."""
    options = ["--json"] if form == "json" else []
    done = CliRunner().invoke(cli, ["--runtime", str(tmp_path), "check", *options])
    assert done.exit_code == 1, done.output
    if form == "text":
        assert "LOST  daemon: does not answer\n      lost: " in done.output
        assert "      -> systemctl enable --now leitwolf" in done.output
        return
    found = {one["name"]: one for one in json.loads(done.output)}
    assert set(found["daemon"]) == {"name", "ok", "found", "lost", "fix"}
    assert found["daemon"]["ok"] is False
    names = {"root", "kernel", "real-time scheduling", "nftables", "cgroups", "watchdog", "port"}
    assert names <= set(found)
