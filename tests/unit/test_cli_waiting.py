"""``--wait/--no-wait``: a command tells what happens until its outcome, and then the outcome."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from msgspec.structs import replace
from tests.unit.api_support import (
    FakeService,
    group_view,
    node_line,
    resource_view,
    status_view,
)
from tests.unit.test_cli import run, served

from leitwolf.cli.commands import cli
from leitwolf.model.commands import Answer
from leitwolf.model.views import GroupView, ResourceView, StatusView

# The server is cut off at the end of a test, with whatever connection it keeps.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

IP, APP = resource_view("ip"), resource_view("app", depends=("ip",))


def app(state: str, **changes: object) -> ResourceView:
    return resource_view("app", state, depends=("ip",), **changes)


def step(service: FakeService) -> None:
    service.view = service.later.pop(0)


def seen(*groups: GroupView, index: int = 8) -> StatusView:
    return status_view(groups=groups, index=index)


def lacking(kind: str, *texts: str) -> list[StatusView]:
    """What is to be seen of a change that takes its time: what lacks, one after the other."""
    lacks = [replace(seen(), under_way={kind: text, "else": "more"}) for text in texts]
    return [seen(index=7), *lacks, replace(seen(), under_way={"else": "more"})]


def partial(*resources: ResourceView, **changes: object) -> GroupView:
    return group_view(*resources, status="partially-online", **changes)


OFFLINE = group_view(app("offline"), resource_view("ip", "offline"), status="offline", owner="")

OUTCOMES: dict[str, tuple[list[str], list[StatusView], list[str], str]] = {
    "resource add": (
        ["resource", "add", "web", "app", "process", "command=true"],
        [
            seen(group_view(IP), index=7),
            seen(group_view(app("online-pending"), IP, status="pending")),
            seen(group_view(APP, IP)),
        ],
        ["entry 8 is not here yet", "app: online-pending (app is online-pending)"],
        "resource app is online on n2",
    ),
    "resource add to a group that is offline": (
        ["resource", "add", "web", "app", "process", "command=true"],
        [seen(group_view(app("offline"), status="offline", wish="offline", owner=""))],
        [],
        "resource app is offline: group web is to be offline",
    ),
    "resource set": (
        ["resource", "set", "app", "command=false"],
        [seen(partial(app("online-pending"), IP)), seen(group_view(APP, IP))],
        ["app: online-pending"],
        "resource app is online on n2",
    ),
    "resource online": (
        ["resource", "online", "app"],
        [seen(partial(app("offline"), IP)), seen(group_view(APP, IP))],
        ["app: offline"],
        "resource app is online on n2",
    ),
    "resource online without what it needs": (
        ["resource", "online", "app"],
        [seen(group_view(app("offline"), resource_view("ip", "offline", wish="offline")))],
        [],
        "resource app is offline: ip, which it needs, is to be offline",
    ),
    "resource offline": (
        ["resource", "offline", "app"],
        [
            seen(partial(app("offline-pending", wish="offline"), IP)),
            seen(partial(app("offline", wish="offline"), IP)),
        ],
        ["app: offline-pending"],
        "resource app is offline",
    ),
    "resource remove": (
        ["resource", "remove", "app"],
        [seen(partial(app("offline"), IP), index=7), seen(group_view(IP))],
        ["entry 8 is not here yet"],
        "resource app removed (entry 8)",
    ),
    "group remove": (
        ["group", "remove", "web", "--force"],
        [
            seen(group_view(APP, IP, status="failed", reason="web is being removed")),
            seen(OFFLINE),
            seen(),
        ],
        ["web: failed on n2 (web is being removed)", "web: offline on no node"],
        "group web removed (entry 8)",
    ),
    "group recover": (
        ["group", "recover", "web"],
        [
            seen(partial(app("failed"), IP), index=7),
            seen(group_view(app("online-pending"), IP, status="pending")),
            seen(group_view(APP, IP)),
        ],
        ["web: pending on n2"],
        "group web is online on n2",
    ),
    "group online with a resource that is to stay offline": (
        ["group", "online", "web"],
        [seen(OFFLINE), seen(partial(app("offline", wish="offline"), IP))],
        ["web: offline on no node"],
        "group web is partially-online on n2",
    ),
    "rekey": (
        ["rekey"],
        lacking("keys", "told", "turning"),
        ["entry 8 is not here yet", "keys: told", "keys: turning"],
        "heartbeat keys are replaced (entry 8)",
    ),
    "set --profile": (
        ["set", "--profile", "wan"],
        lacking("profile", "leases"),
        ["profile: leases"],
        "cluster changed (entry 8)",
    ),
    "quorum set nodes": (
        ["quorum", "set", "nodes"],
        lacking("votes", "joint"),
        ["votes: joint"],
        "the quorum is a majority of the nodes (entry 8)",
    ),
    "quorum votes": (
        ["quorum", "votes", "--strict"],
        lacking("votes", "n3 votes", "joint"),
        ["votes: n3 votes", "votes: joint"],
        "votes are given as wanted: leitwolf quorum status (entry 8)",
    ),
    "quorum weight": (
        ["quorum", "weight", "n3", "1"],
        lacking("votes", "n3 votes"),
        ["votes: n3 votes"],
        "n3 votes while it is there: leitwolf quorum status (entry 8)",
    ),
    "node lead": (
        ["node", "lead", "n2"],
        [
            seen(index=8),
            replace(seen(index=9), nodes=(node_line(1, leader=False), node_line(2, leader=True))),
        ],
        ["waiting until somebody leads"],
        "leadership is handed over to n2 (entry 8)",
    ),
    "leave": (
        ["leave"],
        [status_view(), status_view(formed=False)],
        ["waiting until the cluster goes on"],
        "n1 left lab",
    ),
}
"""Words, what is to be seen one after the other, what is told meanwhile, and at last."""


@pytest.mark.parametrize("what", OUTCOMES)
def test_a_command_tells_progress_and_then_the_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Not before the outcome is there; progress goes to stderr."""
    words, views, told, outcome = OUTCOMES[what]
    service = FakeService(view=views[0], later=views[1:])
    if what == "leave":  # it asks at intervals: who leaves has no log to wait for
        clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: step(service))
        monkeypatch.setattr("leitwolf.cli.cluster.time", clock)
    with served(service, tmp_path):
        done = run(tmp_path, *words)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == outcome
    assert not service.later
    lines = iter(done.stderr.splitlines())
    for line in told:
        assert any(line in item for item in lines), done.stderr


def test_a_move_that_ends_elsewhere_is_told_at_once(tmp_path: Path) -> None:
    """Its target was lost meanwhile, and another node took the group: nothing more is to come."""
    elsewhere = group_view(APP, IP, owner="n1", generation=3, reason="n3 is lost")
    views = [seen(group_view(APP, IP), index=7), seen(group_view(APP, IP)), seen(elsewhere)]
    with served(FakeService(view=views[0], later=views[1:]), tmp_path):
        done = run(tmp_path, "group", "move", "web", "n3", "--json")
    assert done.exit_code != 0
    told = json.loads(done.stdout)
    assert told["code"] == "moved-elsewhere"
    assert "on n1 instead: n3 is lost" in told["error"]


@pytest.mark.parametrize(
    ("what", "outcome"),
    [
        ("resource add", "resource app added to web (entry 8)"),
        ("resource set", "resource app changed (entry 8)"),
        ("resource online", "resource app shall be online (entry 8)"),
        ("resource offline", "resource app shall be offline (entry 8)"),
        ("resource remove", "resource app removed (entry 8)"),
        ("group remove", "group web is being removed (entry 8)"),
        ("group recover", "group web is tried again (entry 8)"),
        ("rekey", "heartbeat keys are being replaced (entry 8)"),
        ("set --profile", "cluster is being changed (entry 8)"),
        ("quorum set nodes", "the quorum becomes a majority of the nodes (entry 8)"),
        ("quorum votes", "votes are being changed: leitwolf quorum status (entry 8)"),
        ("quorum weight", "soon n3 votes while it is there: leitwolf quorum status (entry 8)"),
        ("node lead", "leadership is being handed over (entry 8)"),
        ("leave", "n1 leaves lab (entry 8)"),
    ],
)
def test_who_does_not_wait_is_told_what_was_begun(tmp_path: Path, what: str, outcome: str) -> None:
    """No claim about what has not happened yet."""
    words, views, _, _ = OUTCOMES[what]
    service = FakeService(view=views[0], later=views[1:])
    with served(service, tmp_path):
        done = run(tmp_path, *words, "--no-wait")
    assert done.exit_code == 0, done.output
    assert done.output.strip() == outcome
    assert len(service.later) == len(views) - 1


@pytest.mark.parametrize(
    ("words", "exit_code", "said"),
    [
        (["resource", "online", "app"], 4, "group web failed: no program"),
        (["group", "recover", "web"], 4, "group web failed: no program"),
        (["resource", "offline", "ip", "--timeout", "0"], 6, "not done after 0 s: ip: online"),
        (["group", "remove", "web", "--force", "--timeout", "0"], 6, "web: failed on n2"),
    ],
)
def test_what_does_not_come_about_is_an_error(
    tmp_path: Path, words: list[str], exit_code: int, said: str
) -> None:
    """A failure in the words of what failed, where it is one of what was asked; else too late."""
    failed = app("failed", reason="no program", code="exec-failed")
    wish = "offline" if "ip" in words else "online"
    view = seen(group_view(failed, resource_view("ip", wish=wish), status="failed"))
    with served(FakeService(view=view), tmp_path):
        done = run(tmp_path, *words)
        assert (done.exit_code, said in done.stderr) == (exit_code, True), done.stderr
        assert "leitwolf why web" in done.stderr
        done = run(tmp_path, *words, "--json")
    code = "exec-failed" if exit_code == 4 else "timeout"
    assert (done.exit_code, json.loads(done.stdout)["code"]) == (exit_code, code)
    assert done.stderr == ""


def test_the_outcome_of_a_resource_is_one_json_value(tmp_path: Path) -> None:
    """The resource as it is then; progress is left out."""
    words, views, _, _ = OUTCOMES["resource online"]
    with served(FakeService(view=views[0], later=views[1:], answer=Answer(index=8)), tmp_path):
        done = run(tmp_path, *words, "--json")
    assert (json.loads(done.stdout)["state"], done.stderr) == ("online", "")


WAITING = {
    *(f"group {name}" for name in ("add", "move", "offline", "online", "recover", "remove")),
    *(f"node {name}" for name in ("evict", "lead", "pause")),
    *(f"quorum set {name}" for name in ("disk", "nodes", "witness")),
    *(f"quorum {name}" for name in ("move", "replace", "votes", "weight")),
    *(f"resource {name}" for name in ("add", "offline", "online", "remove", "set")),
    *("leave", "rekey", "set"),
}


def waiting(group: click.Group, path: str = "") -> set[str]:
    """Return the commands that can be told not to wait."""
    found = set()
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= waiting(command, f"{path}{name} ")
        elif any("--no-wait" in item.secondary_opts for item in command.params):
            found.add(path + name)
    return found


def test_every_command_with_an_outcome_to_come_waits() -> None:
    """What only stores something has none."""
    assert waiting(cli) == WAITING


def test_a_name_is_there_at_once_and_a_profile_is_not(tmp_path: Path) -> None:
    """Nothing is waited for that was not asked for; what lacks is named when time is up."""
    view = replace(seen(), under_way={"profile": "leases of wan", "keys": "told"})
    with served(FakeService(view=view), tmp_path):
        done = run(tmp_path, "set", "--name", "other", "--timeout", "0")
        assert (done.exit_code, done.stdout.strip()) == (0, "cluster changed (entry 8)")
        done = run(tmp_path, "set", "--profile", "wan", "--timeout", "0")
    assert (done.exit_code, "not done after 0 s: profile: leases of wan" in done.stderr) == (
        6,
        True,
    )
