"""``log --follow`` and ``status --watch``: what comes after the first answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from tests.unit.api_support import FakeService, group_view, log_line, resource_view, status_view
from tests.unit.test_cli import run, served

from leitwolf.client import Client

# The server is cut off at the end of a test, with whatever connection it keeps.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Growing(FakeService):
    """A log that grows when somebody waits for it; at its end somebody presses Ctrl-C."""

    def __init__(self, *growth: tuple[int, ...]) -> None:
        super().__init__(lines=[log_line(index) for index in growth[0]])
        self.view = status_view(index=growth[0][-1])
        self.growth = list(growth[1:])
        self.waited: list[int] = []

    async def wait_beyond(self, index: int, timeout_s: float) -> int:
        self.waited.append(index)
        if self.growth:
            self.lines += [log_line(number) for number in self.growth.pop(0)]
        return await super().wait_beyond(index, timeout_s)


def follow(
    monkeypatch: pytest.MonkeyPatch, folder: Path, service: Growing, *words: str
) -> tuple[Result, list[int]]:
    """Run ``log --follow``; press Ctrl-C when all is told. Also behind what was asked each time."""
    ask, asked = Client.log, []

    def spied(client: Client, after: int, limit: int, wait_s: float) -> object:
        asked.append(after)
        if after >= service.lines[-1].index and not service.growth:
            raise KeyboardInterrupt
        return ask(client, after, limit, wait_s)

    monkeypatch.setattr(Client, "log", spied)
    with served(service, folder):
        done = run(folder, "log", "--follow", *words)
    assert done.exit_code == 130
    assert done.stderr == ""
    return done, asked


def test_a_log_that_is_followed_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is there at once, then each line that comes, in order, none twice, none left out."""
    service = Growing((1, 2, 3), (4, 5), (), (6,))
    done, asked = follow(monkeypatch, tmp_path, service, "--after", "0", "--limit", "2")
    assert [line.split()[0] for line in done.stdout.splitlines()] == list("123456")
    assert asked == [0, 2, 3, 5, 5, 6]
    assert service.waited == [3, 5, 5]  # what is there already is not waited for


@pytest.mark.parametrize(("words", "first"), [((), 3), (("--after", "4"), 5)])
def test_following_begins_where_one_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...], first: int
) -> None:
    """Behind an index, to go on with after Ctrl-C; else with the newest ``--limit``. JSON too."""
    service = Growing((1, 2, 3, 4), (5,), (6,))
    done, _ = follow(monkeypatch, tmp_path, service, *words, "--limit", "2", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["index"] for line in lines] == list(range(first, 7))


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_status_that_is_watched_is_shown_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: str
) -> None:
    """The screen is cleared and drawn by what is so now; JSON is a value and line each."""
    app = resource_view("app")
    failed = group_view(app, status="failed", reason="too often")
    service = FakeService(view=status_view(groups=(group_view(app),)))
    service.later = [status_view(index=8, groups=(failed,))]
    wait, behind = Client.wait_beyond, []

    def spied(client: Client, index: int, wait_s: float) -> int:
        behind.append(index)
        if not service.later:
            raise KeyboardInterrupt
        return wait(client, index, wait_s)

    cleared: list[bool] = []
    monkeypatch.setattr(Client, "wait_beyond", spied)
    monkeypatch.setattr("click.clear", lambda: cleared.append(True))
    with served(service, tmp_path):
        done = run(tmp_path, "status", "--watch", *(["--json"] if form == "json" else []))
    assert (done.exit_code, done.stderr) == (130, "")
    assert behind == [7, 8]
    if form == "json":
        shown = [json.loads(line) for line in done.stdout.splitlines()]
        assert [view["groups"][0]["status"] for view in shown] == ["online", "failed"]
        assert not cleared
        return
    first, second = done.stdout.split("\nlab  ")
    assert "● web  online on n2" in first
    assert "✗ web  failed on n2  too often" in second
    assert len(cleared) == 2
