"""The kernel's lease on addresses: they answer only while the run-lease is alive.

Rules:
- A packet is dropped when one of the addresses that it bears is *managed*, unless that address is
  *held* and the lease element in ``run`` has not run out. "Bears": source and destination of IPv4
  and IPv6, sender and target of ARP, target of neighbour solicitations and advertisements. It
  holds on every interface, the loopback too: a service must not answer its own node either.
- The lease is one element per family with a timeout. The kernel stops matching it at the instant
  that it runs out, whether or not any process of the node still runs.
- It is prolonged by deleting AND adding it in one transaction, which the kernel refuses when it
  has run out. A guard that was frozen between computing and sending cannot re-open the gate.
- Everything changes in transactions: there is no instant without the rules, except after somebody
  else deletes them; :meth:`Gate.touched` tells of that and :meth:`Gate.install` repairs it.

Theory of operation. Tables of one name (``ip``, ``ip6``, ``arp``, ``netdev``) hold the same three
sets and a chain ``gate`` that looks each address of a packet up in ``managed`` and leaves it alone
when it is not there; the cost does not grow with the number of addresses. The hooks lie outside of
address translation, so that a packet is seen with the address that it has on the wire: before
everything on the way in, after source translation on the way out. ARP on a packet socket, as
announcements are, passes by ``arp``; the table ``netdev`` sees it where it leaves an interface that
was given to :meth:`Gate.cover`. ``run`` is looked up by the packet's family, a key that every
packet has and ``nft list ruleset`` can show.

``managed`` must name only addresses that this node has or is about to add: while an address is
another node's, a managed one could not be reached from here. So the order is: manage, add the
address, hold; and let go, remove the address, no longer manage.

Foreign hands are looked for by the number of the ruleset's generation, and not by listening to
notices: with a listener the kernel makes a notice of each rule while it commits, and loads of ten
thousand rules held a processor for up to 270 ms, from every process and all leases on it (60 ms
without).

What this does not guarantee: packets that pass by netfilter are not seen (AF_PACKET sockets, but
for ARP from Linux 5.16 on; XDP; forwarded flows in a flowtable; ARP on links with addresses other
than 6 or 20 bytes). The kernel counts in jiffies, up to 10 ms, and does not count while the machine
is suspended.

Standard library only: the guard imports this. Needs CAP_NET_ADMIN over the network namespace.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from typing import NamedTuple, Self

from leitwolf.system import nfnetlink as nft
from leitwolf.system.rawnetlink import (
    Channel,
    Message,
    contains,
    decode_attributes,
    text,
)
from leitwolf.system.rtnetlink import marked_addresses

__all__ = ["ARM_MAXIMUM_MS", "ARM_MINIMUM_MS", "Gate"]

ARM_MINIMUM_MS = 10
"""One jiffy of the slowest clock: less would round to 0, which means for ever."""
ARM_MAXIMUM_MS = 60_000
"""Far above every profile: a longer lease is a mistake."""

_COMMENT = "Leitwolf: virtual addresses answer only while this node holds its lease"
_BEFORE_ALL, _AFTER_ALL = -310, 310
_RUN_DEFAULT_MS = 1000
"""An element that somebody adds by hand must run out as well."""
_META_PROTOCOL, _META_FAMILY, _META_TRANSPORT = 1, 15, 16
_NETWORK, _TRANSPORT = 1, 2
_ICMPV6 = 58
_NFT_TYPE_FAMILY, _NFT_TYPE_IPV4, _NFT_TYPE_IPV6 = 2, 7, 8
_IP, _ARP, _DEVICE, _IP6 = 2, 3, 5, 10
_EGRESS = "egress-"
"""Chains of covered interfaces are named by this and the interface's index."""
_EGRESS_HOOK = 1


class _Field(NamedTuple):
    """One place in a packet where an address stands."""

    name: str
    address: bytes
    """Expression that loads it."""
    condition: tuple[bytes, ...] = ()
    """Expressions that say whether the packet has it."""


class _Family(NamedTuple):
    protocol: int
    key_type: int
    key_bytes: int
    hooks: tuple[tuple[str, int, int], ...]
    """Name, number, priority."""
    fields: tuple[_Field, ...]


def _neighbour(name: str, kind: int) -> _Field:
    condition = (
        nft.load_meta(_META_TRANSPORT),
        nft.compare(bytes((_ICMPV6,))),
        nft.load_payload(_TRANSPORT, 0, 1),
        nft.compare(bytes((kind,))),
    )
    return _Field(name, nft.load_payload(_TRANSPORT, 8, 16), condition)


def _resolution(name: str, hardware_bytes: int, offset: int) -> _Field:
    condition = (nft.load_payload(_NETWORK, 4, 1), nft.compare(bytes((hardware_bytes,))))
    return _Field(name, nft.load_payload(_NETWORK, offset, 4), condition)


def _resolution_on_wire(name: str, hardware_bytes: int, offset: int) -> _Field:
    field = _resolution(name, hardware_bytes, offset)
    is_arp = (nft.load_meta(_META_PROTOCOL), nft.compare(b"\x08\x06"))
    return field._replace(condition=is_arp + field.condition)


_IP_HOOKS = (
    ("prerouting", 0, _BEFORE_ALL),
    ("output", 3, _BEFORE_ALL),
    ("postrouting", 4, _AFTER_ALL),
)
_FAMILIES = (
    _Family(
        _IP,
        _NFT_TYPE_IPV4,
        4,
        _IP_HOOKS,
        (
            _Field("source", nft.load_payload(_NETWORK, 12, 4)),
            _Field("destination", nft.load_payload(_NETWORK, 16, 4)),
        ),
    ),
    _Family(
        _IP6,
        _NFT_TYPE_IPV6,
        16,
        _IP_HOOKS,
        (
            _Field("source", nft.load_payload(_NETWORK, 8, 16)),
            _Field("destination", nft.load_payload(_NETWORK, 24, 16)),
            _neighbour("solicited", 135),
            _neighbour("advertised", 136),
        ),
    ),
    _Family(
        _ARP,
        _NFT_TYPE_IPV4,
        4,
        (("input", 0, _BEFORE_ALL), ("output", 1, _BEFORE_ALL)),
        (
            _resolution("sender", 6, 14),
            _resolution("target", 6, 24),
            _resolution("sender-infiniband", 20, 28),
            _resolution("target-infiniband", 20, 52),
        ),
    ),
    _Family(
        _DEVICE,
        _NFT_TYPE_IPV4,
        4,
        (),  # one for each interface: see Gate.cover
        (
            _resolution_on_wire("sender", 6, 14),
            _resolution_on_wire("sender-infiniband", 20, 28),
        ),
    ),
)
_LOAD_FAMILY = nft.load_meta(_META_FAMILY)


def _structure(family: _Family, table: str) -> nft.Batch:
    """Return the requests that make sets, chains and rules, the table excepted."""
    kind = family.protocol
    parts = [
        nft.add_set(
            kind, table, name, key_type=family.key_type, key_bytes=family.key_bytes, number=number
        )
        for number, name in enumerate(("managed", "held"), 1)
    ]
    parts.append(
        nft.add_set(
            kind,
            table,
            "run",
            key_type=_NFT_TYPE_FAMILY,
            key_bytes=1,
            number=3,
            timeout_ms=_RUN_DEFAULT_MS,
        )
    )
    parts += [nft.add_chain(kind, table, field.name) for field in family.fields]
    parts.append(nft.add_chain(kind, table, "gate"))
    for name, hook, priority in family.hooks:
        parts.append(nft.add_base_chain(kind, table, name, hook=hook, priority=priority))
        parts.append(nft.add_rule(kind, table, name, nft.verdict(nft.JUMP, "gate")))
    for field in family.fields:
        found = (*field.condition, field.address)
        jump = nft.verdict(nft.JUMP, field.name)
        alive = (_LOAD_FAMILY, nft.lookup("run"), nft.verdict(nft.RETURN))
        drop = (nft.counter(), nft.verdict(nft.DROP))
        parts += [
            nft.add_rule(kind, table, "gate", *found, nft.lookup("managed"), jump),
            nft.add_rule(kind, table, field.name, *found, nft.lookup("held"), *alive),
            nft.add_rule(kind, table, field.name, *drop),
        ]
    return parts


def _by_length(addresses: Iterable[str]) -> dict[int, list[bytes]]:
    """Return the addresses as keys, sorted by their length."""
    keys: dict[int, list[bytes]] = {4: [], 16: []}
    for address in sorted(set(addresses)):
        try:
            key = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
        except OSError:
            raise ValueError(f"not an IP address: {address!r}") from None
        keys[len(key)].append(key)
    return keys


class Gate:
    """The gate of this node, in the network namespace of the thread that creates it.

    Several processes may have one each: the guard installs, arms and disarms; the host manages
    and holds. The rules stay in the kernel when the processes end. :meth:`arm` and
    :meth:`disarm` may be called from another thread than the rest without waiting for it.

    Raises:
        OSError: of every method: the kernel refused (EPERM: no CAP_NET_ADMIN; ENOENT: the gate is
            not installed, or somebody deleted it).
    """

    def __init__(self, name: str = "leitwolf") -> None:
        self.name = name
        self._control = Channel(nft.NETFILTER)
        self._arming = Channel(nft.NETFILTER)
        self._looked = -1
        self._verified = -1
        add: nft.Batch = []
        delete: nft.Batch = []
        flush: nft.Batch = []
        for family in _FAMILIES:
            kind, key = family.protocol, bytes((family.protocol,))
            add += nft.add_elements(
                kind, name, "run", [key], timeout_ms=_RUN_DEFAULT_MS, exclusive=True
            )
            delete += nft.delete_elements(kind, name, "run", [key])
            flush += nft.delete_elements(kind, name, "run")
        self._open = nft.Prepared(add)
        self._renew = nft.Prepared(delete + add)
        self._shut = nft.Prepared(flush)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets; the rules stay."""
        self._control.close()
        self._arming.close()

    def install(self, addresses: Iterable[str] = ()) -> None:
        """Build the gate anew, closed, in one transaction that replaces what was there.

        Args:
            addresses: managed and held from the first instant: what this node has already (see
                :func:`leitwolf.system.rtnetlink.marked_addresses`). Others that were managed or
                held before are forgotten. The interfaces that carry them are covered next.

        Raises:
            ValueError: something is no address.
            OSError: see the class.
        """
        keys = _by_length(addresses)
        batch: nft.Batch = []
        for family in _FAMILIES:
            kind = family.protocol
            batch += [
                nft.add_table(kind, self.name),
                nft.delete_table(kind, self.name),
                nft.add_table(kind, self.name, _COMMENT),
                *_structure(family, self.name),
            ]
            for name in ("managed", "held"):
                batch += nft.add_elements(kind, self.name, name, keys[family.key_bytes])
        nft.transact(self._control, batch)
        self._cover_again(set(addresses))

    def _cover_again(self, addresses: set[str]) -> None:
        """Cover the interfaces that carry these addresses; one that vanishes needs no cover."""
        if not addresses:
            return
        carrying = {
            one.interface for one in marked_addresses(also=addresses) if one.address in addresses
        }
        for index in sorted(carrying):
            try:
                self.cover(index, socket.if_indextoname(index))
            except OSError as error:
                if error.errno not in (errno.ENODEV, errno.ENXIO, errno.ENOENT):
                    raise

    def cover(self, index: int, interface: str) -> bool:
        """Have announcements by packet sockets pass the gate on an interface; once is enough.

        Args:
            index: of the interface.
            interface: its name.

        Returns:
            False when this kernel cannot (before Linux 5.16, or built without the egress hook).
        """
        chain = f"{_EGRESS}{index}"
        try:
            self._control.request(
                nft.subsystem_kind(nft.Kind.GET_CHAIN),
                0,
                nft.generic(_DEVICE) + nft.add_chain(_DEVICE, self.name, chain).body,
            )
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
        else:
            return True
        hooked = nft.add_base_chain(
            _DEVICE,
            self.name,
            chain,
            hook=_EGRESS_HOOK,
            priority=_AFTER_ALL,
            device=interface,
        )
        through = nft.add_rule(_DEVICE, self.name, chain, nft.verdict(nft.JUMP, "gate"))
        try:
            nft.transact(self._control, [hooked, through])
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return False
        return True

    def uninstall(self) -> None:
        """Delete the gate with its rules (the node leaves the cluster); nothing when not there."""
        batch: nft.Batch = []
        for family in _FAMILIES:
            batch.append(nft.add_table(family.protocol, self.name))
            batch.append(nft.delete_table(family.protocol, self.name))
        nft.transact(self._control, batch)

    def intact(self) -> bool:
        """Tell whether tables, sets, chains and rules are there as installed.

        Costs one exchange when nothing in nftables changed since the last call that returned
        True, else about thirty. It does not compare addresses (:meth:`managed` does).
        """
        generation = self._generation()
        if generation == self._verified:
            return True
        try:
            whole = all(self._family_intact(family) for family in _FAMILIES)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        if whole and self._generation() == generation:
            self._verified = generation
        return whole

    def _generation(self) -> int:
        (reply,) = self._control.request(
            nft.subsystem_kind(nft.Kind.GET_GENERATION), 0, nft.generic(0)
        )
        number = dict(decode_attributes(reply.body[nft.GENERIC_HEADER_BYTES :]))[1]
        return int.from_bytes(number, "big")

    def _family_intact(self, family: _Family) -> bool:
        rules: dict[str, list[bytes]] = {}
        table = nft.add_table(family.protocol, self.name, _COMMENT)
        for one in (table, *_structure(family, self.name)):
            if one.kind == nft.Kind.NEW_RULE:
                chain = _string(dict(decode_attributes(one.body))[2])
                rules.setdefault(chain, []).append(one.body)
                continue
            # What makes an object also names it.
            (reply,) = self._control.request(
                nft.subsystem_kind(one.kind + 1), 0, nft.generic(family.protocol) + one.body
            )
            if not contains(reply.body[nft.GENERIC_HEADER_BYTES :], one.body, nft.SET_NUMBER):
                return False
        found: dict[str, list[bytes]] = {}
        for reply in self._dump(nft.Kind.GET_RULE, family, text(1, self.name)):
            body = reply.body[nft.GENERIC_HEADER_BYTES :]
            chain = _string(dict(decode_attributes(body))[2])
            if not chain.startswith(_EGRESS):
                found.setdefault(chain, []).append(body)
        return rules.keys() == found.keys() and all(
            len(bodies) == len(found[chain]) and all(map(contains, found[chain], bodies))
            for chain, bodies in rules.items()
        )

    def _dump(self, kind: int, family: _Family, selection: bytes) -> list[Message]:
        body = nft.generic(family.protocol) + selection
        return self._control.dump(nft.subsystem_kind(kind), body)

    # --- addresses ---

    def manage(self, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
        """Put addresses under the gate, and take others away from it: they are not held either.

        An address in both stays managed. One that is there already, or not, is no error.

        Raises:
            ValueError: something is no address.
            OSError: see the class.
        """
        gone = list(remove)  # in one transaction: a second one would cost time at every move
        self._change([("held", False, gone), ("managed", False, gone), ("managed", True, add)])

    def hold(self, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
        """Say which managed addresses this node may use while its lease is alive.

        An address in both is not held. One that is there already, or not, is no error.

        Raises:
            ValueError: something is no address.
            OSError: see the class.
        """
        self._change([("held", True, add), ("held", False, remove)])

    def _change(self, steps: list[tuple[str, bool, Iterable[str]]]) -> None:
        batch: nft.Batch = []
        for name, adding, addresses in steps:
            keys = _by_length(addresses)
            for family in _FAMILIES:
                some = keys[family.key_bytes]
                # Deleting what is not there fails, so it is added first, in the same transaction.
                batch += nft.add_elements(family.protocol, self.name, name, some)
                if not adding:
                    batch += nft.delete_elements(family.protocol, self.name, name, some)
        if batch:
            nft.transact(self._control, batch)

    def managed(self) -> set[str]:
        """Return the addresses under the gate, as the kernel has them, in every table."""
        tables = self._addresses("managed")
        resolved = set.intersection(*(tables[kind] for kind in (_IP, _ARP, _DEVICE)))
        return resolved | tables[_IP6]

    def held(self) -> set[str]:
        """Return the addresses that this node may use, as the kernel has them, in any table."""
        return set().union(*self._addresses("held").values())

    def _addresses(self, name: str) -> dict[int, set[str]]:
        """Return the addresses in a set, by the family of its table."""
        tables: dict[int, set[str]] = {}
        for family in _FAMILIES:
            selection = text(1, self.name) + text(2, name)
            found = tables[family.protocol] = set()
            for reply in self._dump(nft.Kind.GET_ELEMENT, family, selection):
                found.update(map(_address, nft.element_keys(reply.body)))
        return tables

    # --- the lease ---

    def arm(self, duration_ms: int, *, renewal: bool) -> bool:
        """Let held addresses answer for so long from now, counted by the kernel.

        Args:
            duration_ms: at most :data:`ARM_MAXIMUM_MS`; below :data:`ARM_MINIMUM_MS` nothing is
                armed and the answer is False.
            renewal: prolong the lease that runs: refused when it has run out. Otherwise begin
                one: refused when one runs.

        Returns:
            False when the kernel refused for that reason, or because the gate is not there (ask
            :meth:`intact`). The old lease, if any, then ends when it would have ended.

        Raises:
            ValueError: the duration is above the maximum.
            OSError: the kernel refused for another reason; nothing changed.
        """
        if duration_ms > ARM_MAXIMUM_MS:
            raise ValueError(f"a lease of {duration_ms} ms on addresses")
        if duration_ms < ARM_MINIMUM_MS:
            return False
        try:
            (self._renew if renewal else self._open).send(self._arming, duration_ms)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EEXIST):
                raise
            return False
        self._looked += 1  # a transaction is a generation; where others had one too, it shows
        return True

    def disarm(self) -> None:
        """End the lease on addresses now; nothing when there is none.

        Raises:
            OSError: ENOENT: the gate itself is not there, so addresses are open until
                :meth:`install` builds it, closed.
        """
        self._shut.send(self._arming)

    # --- foreign hands ---

    def touched(self) -> bool:
        """Tell whether nftables changed since the last call; renewals from here do not count.

        True is a reason to ask :meth:`intact` and :meth:`managed`, not a finding: it is also the
        answer at the first call, and when other rules or addresses changed. Costs one exchange.

        Raises:
            OSError: see the class.
        """
        generation = self._generation()
        former, self._looked = self._looked, generation
        return generation != former


def _string(value: bytes) -> str:
    return value.rstrip(b"\0").decode()


def _address(key: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(key) == 4 else socket.AF_INET6, key)
