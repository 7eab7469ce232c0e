"""The demo on a cluster on which no fault has any effect: nothing of that is a success."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from lab import demo
from lab.cluster import ClusterError
from lab.processes import kill


class Indifferent:
    """A world, its cluster, its client and its observer in one; all is well whatever is done."""

    nodes = ("n1", "n2", "n3")

    def __init__(self, stall_ms: float = 0, doubles_ms: float = 0) -> None:
        self.world = self
        self.frozen: list[str] = []
        self.moves = 0
        self._stall_ms = stall_ms
        self._doubles_ms = doubles_ms

    def power_off(self, node: str) -> None: ...

    def freeze(self, node: str, only: Callable[[int, Sequence[str]], bool]) -> None:
        command_lines = [["python3", "-m", "leitwolf.host.main"], ["python3", "webserver.py"]]
        self.frozen += [argv[-1] for argv in command_lines if only(1, argv)]

    def thaw(self, node: str) -> None: ...

    def cut(self, node: str, networks: Sequence[str]) -> None: ...

    def heal(self, node: str, networks: Sequence[str]) -> None: ...

    def boot(self, node: str) -> None: ...

    def revive(self) -> list[str]:
        return []

    def ask(self, node: str, *arguments: str) -> None:
        self.moves += 1

    def client(self, node: str) -> Any:
        members = [SimpleNamespace(voting=True)] * len(self.nodes)
        return SimpleNamespace(quorum=lambda: SimpleNamespace(joint=False, members=members))

    def owner(self, group: str, nodes: Iterable[str] = ()) -> str:
        return "n1"

    def status(self, node: str) -> dict[str, Any]:
        return {"index": 5, "groups": [{"id": demo.GROUP, "reason": "n1 is lost"}]}

    def wait(self, node: str, wanted: object, what: str, timeout_s: float) -> None: ...

    def processes(self, node: str, belongs: Callable[[Sequence[str]], bool]) -> list[int]:
        return []

    def command(self, node: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(list(arguments), 0, "", "")

    def outages(self) -> list[Any]:
        return []

    def report(self) -> None: ...

    def two_owners_ms(self) -> float:
        return self._doubles_ms

    def stall_ms(self) -> float:
        return self._stall_ms

    def wait_for_answers(self, count: int, timeout_s: float) -> bool:
        return True


def test_faults_without_effect_are_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client sees no outage, yet nothing is ok; each line says what did not happen."""
    monkeypatch.setattr(demo, "_CALM_S", 0.0)
    scene: Any = Indifferent()
    results = demo.Demo(scene, scene, scene).run()
    assert [result.ok for result in results] == [False] * 6
    assert [result.why for result in results] == [
        "web never left n1",
        "web never left n1",
        "web never left n1",
        "web never left n1",
        "no daemon was there to be killed",
        "no web server was there to be killed",
    ]
    assert scene.frozen == ["leitwolf.host.main"]
    assert scene.moves == 1


@pytest.mark.parametrize(
    ("stall_ms", "doubles_ms", "times"), [(3_000, 0, 2), (100, 0, 1), (3_000, 7, 1)]
)
def test_what_fails_while_the_machine_stands_still_is_tried_once_more(
    monkeypatch: pytest.MonkeyPatch, stall_ms: float, doubles_ms: float, times: int
) -> None:
    """Once, and told as it is if it fails again; two owners at once are excused by nothing."""
    monkeypatch.setattr(demo, "_CALM_S", 0.0)
    scene: Any = Indifferent(stall_ms, doubles_ms)
    results = demo.Demo(scene, scene, scene).run()
    assert scene.moves == times
    assert [result.ok for result in results] == [False] * 6
    assert results[0].two_owners_ms == doubles_ms


def test_a_group_that_nobody_owns_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no owner then to whom anything could be done."""
    monkeypatch.setattr(demo, "_CALM_S", 0.0)
    scene: Any = Indifferent()
    monkeypatch.setattr(scene, "owner", lambda *_: "")
    with pytest.raises(ClusterError, match="nobody owns web"):
        demo.Demo(scene, scene, scene).run()


def test_only_who_is_known_to_be_dead_was_killed() -> None:
    """A process that ran is dead when the call returns; one that was gone before is not named."""
    with subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", "input()"], stdin=subprocess.PIPE
    ) as it:
        assert kill([it.pid], 10) == [it.pid]
        assert it.wait() == -9
        assert kill([it.pid], 10) == []
