"""Policy cases: each file is a short story, and what policy made of it.

A file holds commands, ``----`` and the expected result. Commands, one a line:

    nodes N                         N members, up and connected (first command)
    group NAME [preferred=1,2] [setting=VALUE ...] [NAME<PROVIDER,PROVIDER ...]
    online GROUP                    its resources report online
    report RESOURCE STATE [CODE]    the owner's host reports
    attest GROUP                    the owner attests the generation
    see NODE up|away|stopped|disconnected
    pause|drain|resume NODE;  evict NODE;  move GROUP [NODE];  wish GROUP online|offline
    recover GROUP;  remove GROUP
    pass SECONDS                    of cluster time
    plan                            plan, print and apply
    why GROUP                       print the explanation
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.policy_world import AWAY, DISCONNECTED, UP, World

from leitwolf.core.policy import Planned, why
from leitwolf.model import commands, events
from leitwolf.model.commands import Command, Refusal
from leitwolf.model.ids import GroupId, NodeId, ResourceState, Wish
from leitwolf.model.observations import NodeView
from leitwolf.state import SECOND

FOLDER = Path(__file__).parent / "policy"
VIEWS = {
    "up": UP,
    "away": AWAY,
    "stopped": NodeView(leased=False, connected=True, away=True, attested=True),
    "disconnected": DISCONNECTED,
}


class Story:
    """Executes the commands of one file."""

    def __init__(self) -> None:
        self.world = World(1)
        self.lines: list[str] = []

    def run(self, text: str) -> str:
        for line in text.splitlines():
            words = line.split()
            if words and not line.startswith("#"):
                verb: Callable[..., None] = getattr(self, f"do_{words[0]}")
                verb(*words[1:])
        return "\n".join(self.lines) + "\n"

    def ask(self, command: Command) -> None:
        found = self.world.command(command)
        if isinstance(found, Refusal):
            self.lines.append(f"refused {found.code}: {found.text} ({found.hint})")

    # --- verbs -----------------------------------------------------------------------------------

    def do_nodes(self, count: str) -> None:
        self.world = World(int(count))

    def do_group(self, name: str, *words: str) -> None:
        resources: dict[str, tuple[str, ...]] = {}
        settings: dict[str, object] = {}
        for word in words:
            key, equals, value = word.partition("=")
            if equals and key == "preferred":
                settings[key] = tuple(NodeId(int(node)) for node in value.split(","))
            elif equals:
                settings[key] = int(value)
            else:
                resource, _, providers = word.partition("<")
                resources[resource] = tuple(providers.split(",")) if providers else ()
        self.world.add(name, resources or None, **settings)

    def do_online(self, group: str) -> None:
        self.world.report_all(group, ResourceState.ONLINE)

    def do_report(self, resource: str, state: str, code: str = "") -> None:
        self.world.report(resource, ResourceState(state), code)

    def do_attest(self, group: str) -> None:
        self.world.attest(group)

    def do_see(self, node: str, view: str) -> None:
        self.world.see(int(node), VIEWS[view])

    def do_pause(self, node: str) -> None:
        self.ask(commands.PauseNode(node=NodeId(int(node)), paused=True, drain=False))

    def do_drain(self, node: str) -> None:
        self.ask(commands.PauseNode(node=NodeId(int(node)), paused=True))

    def do_resume(self, node: str) -> None:
        self.ask(commands.PauseNode(node=NodeId(int(node)), paused=False))

    def do_evict(self, node: str) -> None:
        self.ask(commands.EvictNode(node=NodeId(int(node))))

    def do_move(self, group: str, node: str = "0") -> None:
        self.ask(commands.MoveGroup(group=GroupId(group), node=NodeId(int(node))))

    def do_wish(self, group: str, wish: str) -> None:
        self.ask(commands.WishGroup(group=GroupId(group), wish=Wish(wish)))

    def do_recover(self, group: str) -> None:
        self.ask(commands.RecoverGroup(group=GroupId(group)))

    def do_remove(self, group: str) -> None:
        self.ask(commands.RemoveGroup(group=GroupId(group), force=True))

    def do_pass(self, seconds: str) -> None:
        self.world.now += int(seconds) * SECOND

    def do_plan(self) -> None:
        plan = self.world.plan()
        self.world.settle()
        self.lines.append("plan:" + ("" if plan.changes else " nothing"))
        for planned in plan.changes:
            self.show(planned)
        if plan.next_at is not None:
            self.lines.append(f"  again in {(plan.next_at - self.world.now) // SECOND} s")

    def do_why(self, group: str) -> None:
        found = why(self.world.state, self.world.log.get, GroupId(group), self.world.seen())
        assert found is not None
        assert 1 <= len(found.lines) <= 10
        self.lines.append(f"why {group}:")
        self.lines.extend(f"  {line}" for line in found.lines)

    # --- printing --------------------------------------------------------------------------------

    def show(self, planned: Planned) -> None:
        self.lines.append(f"  {planned.because.code}: {planned.because.text}")
        for event in planned.events:
            self.lines.append(f"    {self.words(event)}")
            if isinstance(event, events.GroupPlaced | events.GroupStopped):
                self.lines.extend(
                    f"      not {each.node}: {each.code}: {each.text}" for each in event.not_chosen
                )

    @staticmethod
    def words(event: events.Event) -> str:
        match event:
            case events.NodeUp(node=node):
                return f"node {node} up"
            case events.NodeDown(node=node, attested=attested):
                return f"node {node} down" + (", attested" if attested else "")
            case events.GroupPlaced():
                failover = ", a failover" if event.failover else ""
                return (
                    f"{event.group} placed on {event.node}, generation {event.generation}"
                    f"{failover} [{event.cause.code}]"
                )
            case events.GroupClosing():
                failover = ", a failover" if event.failover else ""
                return f"{event.group} closing for {event.target}{failover} [{event.cause.code}]"
            case events.ResourceMoved():
                return (
                    f"{event.resource} {event.state}, attempt {event.attempt} [{event.cause.code}]"
                )
            case events.GroupStopped() | events.GroupFailed() | events.GroupRecovered():
                return f"{event.group} {type(event).__name__} [{event.cause.code}]"
            case _:
                return repr(event)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_policy_case(path: Path, rewrite: bool) -> None:
    """Policy does what the case says."""
    story, _, expected = path.read_text().partition("----\n")
    found = Story().run(story)
    if rewrite:
        path.write_text(f"{story.rstrip()}\n----\n{found}")
    else:
        assert found == expected


def test_there_are_cases() -> None:
    """An empty folder would prove nothing."""
    assert len(list(FOLDER.glob("*.txt"))) >= 10
