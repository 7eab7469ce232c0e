"""What the demo's table says about a fault, and that it says when there was none."""

from __future__ import annotations

import pytest
from lab.cluster import is_leitwolf
from lab.findings import Finding, adopted, ran_on, replaced, story, taken_over

PLACED = {
    "because": "n2 leads by ballot 0.3.n2",
    "events": ["LeaderElected node=n2", "GroupPlaced group=web node=n2 generation=4"],
}
FAILED = {
    "because": "web-app on n1: failed (ended by signal 9)",
    "events": [
        "ResourceMoved resource=web-app node=n1 generation=1 attempt=0 state=failed",
        "ResourceMoved resource=web-app node=n1 generation=1 attempt=1 state=online-pending",
    ],
}
ONLINE = {
    "because": "web-app on n1: online",
    "events": ["ResourceMoved resource=web-app node=n1 generation=1 attempt=1 state=online"],
}
FOREIGN = {
    "because": "n3 is lost",
    "events": ["NodeDown node=n3", "GroupPlaced group=webs node=n1"],
}


def test_a_group_that_was_placed_tells_the_reason_of_its_placement() -> None:
    """The entry may say another reason: a leader's first one carries the groups of the lost."""
    assert story("web", [FAILED, PLACED, ONLINE], "n1 is lost") == "n1 is lost"


def test_a_restart_in_place_tells_what_failed() -> None:
    """An older placement is not repeated."""
    expected = "web-app on n1: failed (ended by signal 9), restarted in place"
    assert story("web", [FAILED, ONLINE], "n1 is lost") == expected


def test_nothing_about_the_group_is_no_story() -> None:
    """Entries about other groups and nodes do not count."""
    assert story("web", [FOREIGN], "n1 is lost") == ""
    assert story("web", [], "n1 is lost") == ""


def test_a_group_that_stays_was_not_taken_over() -> None:
    """Neither the former owner nor nobody is a new one."""
    assert taken_over("web", "n1", "n2") == Finding(ok=True, text="web went from n1 to n2")
    assert taken_over("web", "n1", "n1") == Finding(ok=False, text="web never left n1")
    assert taken_over("web", "n1", "") == Finding(ok=False, text="nobody owns web")


def test_a_service_must_run_on_while_leitwolf_is_frozen() -> None:
    """Else the whole node was, and who closed its addresses is not shown; a worse reason stays."""
    moved = taken_over("web", "n1", "n2")
    assert ran_on(moved, "web server", [7]) == moved
    assert ran_on(moved, "web server", []).ok is False
    assert ran_on(taken_over("web", "n1", "n1"), "web server", []).text == "web never left n1"


@pytest.mark.parametrize(
    ("former", "ended", "now", "ok", "text"),
    [
        ([7], [7], [9], True, "daemon 7 died, 9 serves"),
        ([], [], [9], False, "no daemon was there to be killed"),
        ([7], [], [7], False, "daemon 7 did not die"),
        ([7, 8], [7], [9], False, "daemon 8 did not die"),
        ([7], [7], [], False, "daemon 7 died, none took its place"),
        ([7], [7], [7], False, "daemon 7 died, none took its place"),
    ],
)
def test_killed_is_who_died_and_has_a_successor(
    former: list[int], ended: list[int], now: list[int], ok: bool, text: str
) -> None:
    """Nothing to kill, a survivor, nobody in its place: the fault did not happen as told."""
    assert replaced("daemon", former, ended, now) == Finding(ok=ok, text=text)


def test_a_killed_daemon_leaves_the_same_processes_running() -> None:
    """They are adopted; others in their place are a restart, and none were never there."""
    found = Finding(ok=True, text="daemon 7 died, 9 serves")
    good = adopted(found, "web server", [5], [5])
    assert good == Finding(ok=True, text="daemon 7 died, 9 serves and adopted web server 5")
    restarted = adopted(found, "web server", [5], [6])
    assert restarted.ok is False
    assert "web server 5 became 6" in restarted.text
    assert adopted(found, "web server", [5], []).ok is False
    assert adopted(found, "web server", [], []).ok is False
    wrong = Finding(ok=False, text="no daemon was there to be killed")
    assert adopted(wrong, "web server", [5], [5]) == wrong


@pytest.mark.parametrize(
    ("argv", "own"),
    [
        (["/opt/leitwolf/venv/bin/python", "-m", "leitwolf.keeper.main"], True),
        (["python3", "-m", "leitwolf.cli", "run"], True),
        (["/home/me/leitwolf/.venv/bin/python", "-S", "-E", "/home/me/leitwolf/web.py"], False),
        (["python3", "-m", "leitwolfish"], False),
        (["sh", "-c", "echo leitwolf"], False),
        ([], False),
    ],
)
def test_own_processes_are_known_by_their_module(argv: list[str], own: bool) -> None:
    """A checkout called leitwolf has the word in the paths of all that runs from it."""
    assert is_leitwolf(1, argv) is own
