"""A cluster for tests of state and policy: a log that is folded, and what the leader sees."""

from __future__ import annotations

from leitwolf.core.policy import Judged, Plan, Planned, judge, plan
from leitwolf.model import events
from leitwolf.model.commands import AddGroup, Command, NewResource, Refusal
from leitwolf.model.events import Cause, Change, Event
from leitwolf.model.ids import GroupId, NetworkRole, NodeId, ResourceId, ResourceState, Wish
from leitwolf.model.observations import NodeView, Observations, ResourceReport
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig
from leitwolf.model.state import Group, Resource, State
from leitwolf.state import SECOND, fold_change

UP = NodeView(leased=True, connected=True, away=False)
AWAY = NodeView(leased=False, connected=False, away=True)
DISCONNECTED = NodeView(leased=True, connected=False, away=False)
WALL = 1_700_000_000 * SECOND
_CODES = {"online-pending": "starting", "online": "started", "failed": "exited"}


class World:
    """Nodes ``node1`` .. are up and connected; the client network is 192.0.2.0/24."""

    def __init__(self, nodes: int = 3, *, up: bool = True) -> None:
        self.state = State()
        self.log: dict[int, Change] = {}
        self.now = SECOND
        self.views: dict[NodeId, NodeView] = {}
        self.reports: dict[ResourceId, ResourceReport] = {}
        self.attested: dict[GroupId, int] = {}
        formed: list[Event] = [
            events.ClusterFormed(
                uuid="cluster", name="test", profile="default", port=1, authority=b""
            ),
            events.NetworkSet(
                name="client", subnets=("192.0.2.0/24", "2001:db8::/64"), role=NetworkRole.BOTH
            ),
        ]
        for number in range(1, nodes + 1):
            formed.append(self.new_node(number))
            if number > 1:
                formed.append(events.NodePromoted(node=NodeId(number)))
        config = QuorumConfig(
            acceptors=tuple(
                Acceptor(id=AcceptorId(NodeId(number), f"disk{number}"))
                for number in range(1, nodes + 1)
            )
        )
        self.apply(*formed, config=config)
        if up:
            for number in range(1, nodes + 1):
                self.see(number, UP)
            self.settle()

    @staticmethod
    def new_node(number: int, name: str = "") -> events.NodeAdded:
        return events.NodeAdded(
            node=NodeId(number),
            name=name or f"node{number}",
            uuid=f"uuid{number}",
            storage=f"disk{number}",
            addresses={"client": f"192.0.2.{number}"},
            fingerprint=f"{number:064x}",
        )

    # --- the log ---------------------------------------------------------------------------------

    def apply(
        self,
        *found: Event,
        because: Cause | None = None,
        by: str = "test",
        config: QuorumConfig | None = None,
    ) -> int:
        """Append and fold one change; return its index."""
        change = Change(
            events=found,
            because=because or Cause(code="test", text="the test says so"),
            by=by,
            time=self.now,
            wall=WALL + self.now,
        )
        index = self.state.index + 1
        self.state = fold_change(self.state, index, change, config)
        self.log[index] = change
        return index

    def command(self, command: Command, by: str = "root") -> Judged | Refusal:
        """Judge a command and append what it means."""
        found = judge(self.state, command, self.seen())
        if isinstance(found, Judged) and found.events:
            self.apply(*found.events, because=found.because, by=by)
        return found

    def do(self, command: Command) -> Judged:
        """Judge a command that must not be refused."""
        found = self.command(command)
        assert isinstance(found, Judged), found
        return found

    # --- what is seen ----------------------------------------------------------------------------

    def see(self, node: int, view: NodeView) -> None:
        self.views[NodeId(node)] = view

    def seen(self) -> Observations:
        """Return the observations as the leader filters them: of owners and generations."""
        reports = {}
        for name, report in self.reports.items():
            resource = self.state.resources.get(name)
            group = self.state.groups.get(resource.group) if resource else None
            if group is not None and group.generation == report.generation:
                reports[name] = report
        attested = {
            name: up_to for name, up_to in self.attested.items() if name in self.state.groups
        }
        return Observations(nodes=dict(self.views), resources=reports, attested=attested)

    def report(
        self, name: str, state: ResourceState, code: str = "", text: str = "", attempt: int = -1
    ) -> None:
        """Report a state of a resource on its owner."""
        resource = self.resource(name)
        group = self.group(resource.group)
        self.reports[resource.id] = ResourceReport(
            resource=resource.id,
            group=group.id,
            lease=1,
            generation=group.generation,
            attempt=resource.attempt if attempt < 0 else attempt,
            state=state,
            code=code or _CODES.get(state, "stopped"),
            text=text,
        )

    def report_all(self, group: str, state: ResourceState) -> None:
        for resource in self.members(group):
            self.report(resource.id, state)

    def attest(self, group: str) -> None:
        self.attested[GroupId(group)] = self.group(group).generation

    # --- deciding --------------------------------------------------------------------------------

    def plan(self) -> Plan:
        return plan(self.state, self.seen(), self.now)

    def settle(self) -> list[Planned]:
        """Plan and apply; the plan must be complete: planning again finds nothing."""
        found = self.plan().changes
        for planned in found:
            self.apply(*planned.events, because=planned.because, by="policy")
        assert self.plan().changes == ()
        return list(found)

    # --- what is ---------------------------------------------------------------------------------

    def group(self, name: str) -> Group:
        return self.state.groups[GroupId(name)]

    def resource(self, name: str) -> Resource:
        return self.state.resources[ResourceId(name)]

    def members(self, group: str) -> list[Resource]:
        return [each for each in self.state.resources.values() if each.group == group]

    def add(
        self,
        name: str,
        resources: dict[str, tuple[str, ...]] | None = None,
        **settings: object,
    ) -> None:
        """Add a group of processes (``{name: providers}``) that shall be online."""
        found = resources if resources is not None else {f"{name}-app": ()}
        self.do(
            AddGroup(
                group=GroupId(name),
                resources=tuple(
                    NewResource(
                        resource=ResourceId(each),
                        type="process",
                        parameters={"command": "/bin/server"},
                        depends=tuple(ResourceId(provider) for provider in depends),
                    )
                    for each, depends in found.items()
                ),
                wish=Wish.ONLINE,
                **settings,  # type: ignore[arg-type]
            )
        )

    def online(self, name: str, **settings: object) -> None:
        """Add a group and bring it online."""
        self.add(name, **settings)  # type: ignore[arg-type]
        self.settle()
        self.report_all(name, ResourceState.ONLINE)
        self.settle()

    def events(self, planned: list[Planned] | tuple[Planned, ...]) -> list[Event]:
        return [event for each in planned for event in each.events]
