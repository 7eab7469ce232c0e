"""What the demo's table says about a fault."""

from __future__ import annotations

from lab.demo import story

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
    assert story([FAILED, PLACED, ONLINE], "n1 is lost", "calm") == "n1 is lost"


def test_a_restart_in_place_tells_what_failed() -> None:
    """An older placement is not repeated."""
    expected = "web-app on n1: failed (ended by signal 9), restarted in place"
    assert story([FAILED, ONLINE], "n1 is lost", "calm") == expected


def test_nothing_about_the_group_is_said_as_such() -> None:
    """Entries about other groups and nodes do not count."""
    assert story([FOREIGN], "n1 is lost", "a new daemon") == "nothing moved: a new daemon"
    assert story([], "n1 is lost", "a new daemon") == "nothing moved: a new daemon"
