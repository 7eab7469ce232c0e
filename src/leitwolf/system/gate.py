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
- An address is held under a lease with an id: the first arming puts the id into the set ``lease``
  in the same transaction, and holding deletes AND adds that id in its own. The kernel refuses it
  when another lease began or none is there: a host that was frozen between reading its permission
  and holding lets nothing answer under the next lease.
- Everything changes in transactions: there is no instant without the rules, except after somebody
  else deletes them; :meth:`Gate.touched` tells of that and :meth:`Gate.install` repairs it.

Theory of operation. Tables of one name (``ip``, ``ip6``, ``arp``, ``netdev``) hold the same three
sets and a chain ``gate`` that looks each address of a packet up in ``managed`` and leaves it alone
when it is not there; the cost does not grow with the number of addresses. The hooks lie outside of
address translation, so that a packet is seen with the address that it has on the wire: before
everything on the way in, after source translation on the way out. ARP on a packet socket, as
announcements are, passes by ``arp``; the table ``netdev`` sees it where it leaves an interface that
was given to :meth:`Gate.cover`. ``run`` is looked up by the packet's family, a key that every
packet has and ``nft list ruleset`` can show. A transaction covers all tables, so ``lease`` is in
one of them only, and renewals, which leave it alone, cost nothing more for it.

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
from typing import Self

from leitwolf.system import nfnetlink as nft
from leitwolf.system.gate_rules import (
    AFTER_ALL,
    ARP,
    DEVICE,
    FAMILIES,
    IP,
    IP6,
    LEASE_KEY,
    RUN_DEFAULT_MS,
    Family,
    structure,
)
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
_EGRESS = "egress-"
"""Chains of covered interfaces are named by this and the interface's index."""
_EGRESS_HOOK = 1


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
        self._lease = 0
        """What was armed by this object, or read by it from the kernel."""
        add: nft.Batch = []
        delete: nft.Batch = []
        flush: nft.Batch = []
        for family in FAMILIES:
            kind, key = family.protocol, bytes((family.protocol,))
            add += nft.add_elements(kind, name, "run", [key], timeout_ms=RUN_DEFAULT_MS)
            delete += nft.delete_elements(kind, name, "run", [key])
            flush += nft.delete_elements(kind, name, "run")
        self._renew = nft.Prepared(delete + add)
        self._shut = nft.Prepared(flush + nft.delete_elements(IP, name, "lease"))

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
        for family in FAMILIES:
            kind = family.protocol
            batch += [
                nft.add_table(kind, self.name),
                nft.delete_table(kind, self.name),
                nft.add_table(kind, self.name, _COMMENT),
                *structure(family, self.name),
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
                nft.generic(DEVICE) + nft.add_chain(DEVICE, self.name, chain).body,
            )
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
        else:
            return True
        hooked = nft.add_base_chain(
            DEVICE,
            self.name,
            chain,
            hook=_EGRESS_HOOK,
            priority=AFTER_ALL,
            device=interface,
        )
        through = nft.add_rule(DEVICE, self.name, chain, nft.verdict(nft.JUMP, "gate"))
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
        for family in FAMILIES:
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
            whole = all(self._family_intact(family) for family in FAMILIES)
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

    def _family_intact(self, family: Family) -> bool:
        rules: dict[str, list[bytes]] = {}
        table = nft.add_table(family.protocol, self.name, _COMMENT)
        for one in (table, *structure(family, self.name)):
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

    def _dump(self, kind: int, family: Family, selection: bytes) -> list[Message]:
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

    def hold(
        self, add: Iterable[str] = (), remove: Iterable[str] = (), *, lease: int | None = None
    ) -> None:
        """Say which managed addresses this node may use while its lease is alive.

        An address in both is not held. One that is there already, or not, is no error.

        Args:
            add: hold these.
            remove: hold these no longer.
            lease: only if this lease (its id) is the one in force; None: under any, for the guard.

        Raises:
            ValueError: something is no address.
            OSError: see the class; also ENOENT when ``lease`` is not in force: nothing changed.
        """
        only: nft.Batch = []
        if lease is not None:
            key = [_lease_key(lease)]
            only += nft.delete_elements(IP, self.name, "lease", key)
            only += nft.add_elements(IP, self.name, "lease", key)
        self._change([("held", True, add), ("held", False, remove)], only)

    def _change(
        self, steps: list[tuple[str, bool, Iterable[str]]], first: Iterable[nft.Request] = ()
    ) -> None:
        batch = [*first]
        for name, adding, addresses in steps:
            keys = _by_length(addresses)
            for family in FAMILIES:
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
        resolved = set.intersection(*(tables[kind] for kind in (IP, ARP, DEVICE)))
        return resolved | tables[IP6]

    def held(self) -> set[str]:
        """Return the addresses that this node may use, as the kernel has them, in any table."""
        return set().union(*self._addresses("held").values())

    def _addresses(self, name: str) -> dict[int, set[str]]:
        """Return the addresses in a set, by the family of its table."""
        tables: dict[int, set[str]] = {}
        for family in FAMILIES:
            selection = text(1, self.name) + text(2, name)
            found = tables[family.protocol] = set()
            for reply in self._dump(nft.Kind.GET_ELEMENT, family, selection):
                found.update(map(_address, nft.element_keys(reply.body)))
        return tables

    # --- the lease ---

    def arm(self, duration_ms: int, lease: int, *, renewal: bool) -> bool:
        """Let held addresses answer for so long from now, counted by the kernel.

        Args:
            duration_ms: at most :data:`ARM_MAXIMUM_MS`; below :data:`ARM_MINIMUM_MS` nothing is
                armed and the answer is False.
            lease: its id, 1 .. 2**63 - 1.
            renewal: prolong the lease that runs: refused when it has run out, or is another one.
                Otherwise begin one, under which alone addresses can be held from now on: refused
                when one runs.

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
            if renewal:
                if self._lease != lease and self.lease() != lease:
                    return False
                self._renew.send(self._arming, duration_ms)
            else:
                nft.transact(self._arming, self._opening(duration_ms, lease))
            self._lease = lease
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
        self._lease = 0
        self._shut.send(self._arming)

    def lease(self) -> int:
        """Return the id under which addresses can be held, as the kernel has it, 0: none.

        Raises:
            OSError: see the class.
        """
        selection = nft.generic(IP) + text(1, self.name) + text(2, "lease")
        kind = nft.subsystem_kind(nft.Kind.GET_ELEMENT)
        for reply in self._arming.dump(kind, selection):
            for key in nft.element_keys(reply.body):
                return _lease_of(key)
        return 0

    def _opening(self, duration_ms: int, lease: int) -> nft.Batch:
        batch = nft.delete_elements(IP, self.name, "lease")
        batch += nft.add_elements(IP, self.name, "lease", [_lease_key(lease)])
        for family in FAMILIES:
            batch += nft.add_elements(
                family.protocol,
                self.name,
                "run",
                [bytes((family.protocol,))],
                timeout_ms=duration_ms,
                exclusive=True,
            )
        return batch

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


def _lease_key(lease: int) -> bytes:
    return LEASE_KEY.pack(lease >> 32, lease & 0xFFFFFFFF)


def _lease_of(key: bytes) -> int:
    upper, lower = LEASE_KEY.unpack(key)
    return int(upper) << 32 | int(lower)


def _string(value: bytes) -> str:
    return value.rstrip(b"\0").decode()


def _address(key: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(key) == 4 else socket.AF_INET6, key)
