"""The state while a change is folded in: tables that are copied when they are first written."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from leitwolf.model.errors import InvariantError
from leitwolf.model.events import Cause
from leitwolf.model.ids import GroupId
from leitwolf.model.state import Group, Network, Node, Resource, State, Token, Vacancy

__all__ = ["Draft", "Table"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Table(Generic[K, V]):
    """A dictionary of the state, copied before the first write."""

    __slots__ = ("_base", "_what", "rows")

    def __init__(self, what: str, base: dict[K, V]) -> None:
        self._what = what
        self._base = base
        self.rows = base

    def __contains__(self, key: K) -> bool:
        return key in self.rows

    def __iter__(self) -> Iterator[V]:
        return iter(self.rows.values())

    def need(self, key: K) -> V:
        """Return the object.

        Raises:
            InvariantError: a committed entry names an object that does not exist.
        """
        row = self.rows.get(key)
        if row is None:
            raise InvariantError(f"a log entry names the unknown {self._what} {key}")
        return row

    def put(self, key: K, value: V) -> None:
        """Add or replace an object."""
        if self.rows is self._base:
            self.rows = dict(self._base)
        self.rows[key] = value

    def drop(self, key: K) -> None:
        """Remove an object, which must exist."""
        self.need(key)
        if self.rows is self._base:
            self.rows = dict(self._base)
        del self.rows[key]


class Draft:
    """A state to which the events of one entry are applied."""

    def __init__(self, state: State, index: int, time: int, because: Cause) -> None:
        self.index = index
        self.time = time
        self.because = because
        self.nodes: Table[int, Node] = Table("node", state.nodes)
        self.vacancies: Table[str, Vacancy] = Table("vacancy", state.vacancies)
        self.networks: Table[str, Network] = Table("network", state.networks)
        self.tokens: Table[str, Token] = Table("token", state.tokens)
        self.groups: Table[str, Group] = Table("group", state.groups)
        self.resources: Table[str, Resource] = Table("resource", state.resources)
        self.uuid = state.uuid
        self.name = state.name
        self.profile = state.profile
        self.profile_former = state.profile_former
        self.profile_set = state.profile_set
        self.configured = state.configured
        self.port = state.port
        self.authority = state.authority
        self.node_serial = state.node_serial
        self.generation_floor = state.generation_floor
        self.leader = state.leader
        self.keys = state.keys
        self.keys_stage = state.keys_stage
        self.keys_set = state.keys_set
        self.keys_time = state.keys_time
        self.quorum = self.former_quorum = state.quorum
        self.wish = state.wish
        self.lineage = state.lineage
        self.forced = state.forced
        self.given_up = state.given_up
        self.witness_serial = state.witness_serial
        self.relocations = state.relocations
        self._members: dict[str, list[str]] | None = None

    def members(self, group: GroupId) -> list[Resource]:
        """Return the resources of a group, in the order of their names."""
        if self._members is None:
            self._members = {}
            for resource in self.resources:
                self._members.setdefault(resource.group, []).append(resource.id)
        return [self.resources.need(name) for name in sorted(self._members.get(group, ()))]

    def regroup(self) -> None:
        """Forget which resources belong together; after one was added or removed."""
        self._members = None

    def finish(self) -> State:
        """Return the state that the draft has become."""
        return State(
            uuid=self.uuid,
            name=self.name,
            profile=self.profile,
            profile_former=self.profile_former,
            profile_set=self.profile_set,
            port=self.port,
            authority=self.authority,
            index=self.index,
            configured=self.configured,
            time=self.time,
            node_serial=self.node_serial,
            generation_floor=self.generation_floor,
            leader=self.leader,
            keys=self.keys,
            keys_stage=self.keys_stage,
            keys_set=self.keys_set,
            keys_time=self.keys_time,
            quorum=self.quorum,
            wish=self.wish,
            lineage=self.lineage,
            forced=self.forced,
            given_up=self.given_up,
            witness_serial=self.witness_serial,
            relocations=self.relocations,
            nodes=self.nodes.rows,
            vacancies=self.vacancies.rows,
            networks=self.networks.rows,
            tokens=self.tokens.rows,
            groups=self.groups.rows,
            resources=self.resources.rows,
        )
