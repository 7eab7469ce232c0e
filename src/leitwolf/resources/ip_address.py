"""The resource type ``ip_address``: a virtual address by which clients reach a group.

Rules

- The gate manages the address before it is added, and holds it afterwards, under the lease of the
  order and no other: there is no instant at which it answers without that lease. It is removed
  before it is let go.
- Only the operator's first online waits for the duplicate probe (200 ms). At a move or failover the
  former owner is known to be silent; waiting would be outage.
- Neighbours are told at once, again within seconds (packets get lost, switches learn late), and
  every 30 s after that. Before each packet the permission is read again.
- Somebody else who claims the address is reported; the address stays. One announcement answers it,
  at most every 10 s (RFC 5227 2.4 (b)), so that a stale packet does not divert clients for long.

What this does not guarantee: before Linux 5.16 an announcement by ARP passes by the gate (packet
sockets do; it is reported as ``announcements-ungated``). There a host that is frozen between
reading its permission and the system call behind it could send one too late; the new owner's
answer to it (above) then repairs the neighbours.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
from pathlib import Path

from leitwolf.model.errors import ResourceError
from leitwolf.model.types import address_of, problems
from leitwolf.resources._neighbour import Claim
from leitwolf.resources._network import Picture
from leitwolf.resources._rtnetlink import Address, Link
from leitwolf.resources._surroundings import NOT_PERMITTED, Surroundings

__all__ = ["ANNOUNCEMENTS_S", "IpAddress", "choose_link"]

PROBE_INTERVAL_S = 0.050
PROBES = 4
"""Four questions within 200 ms; every stack answers within a few ms."""
ANNOUNCEMENTS_S = (0.0, 0.05, 0.2, 1.0, 2.0, 5.0, 10.0)
"""When neighbours are told, counted from the start; the first is part of the start."""
REFRESH_S = 30.0
"""Afterwards; shorter than the 5 minutes after which switches forget where an address is."""
HOLD_WAIT_S = 0.3
"""How long an address waits for the gate to be armed: twice what the guard needs to rebuild it."""
HOLD_POLL_S = 0.005
DEFEND_S = 10.0
"""DEFEND_INTERVAL of RFC 5227."""


def choose_link(picture: Picture, address: Address, network: str) -> Link:
    """Return the interface that shall carry an address.

    Args:
        picture: what there is.
        address: the virtual address.
        network: name of the interface; '' or the name of a network of the cluster: the interface
            in whose subnet the address lies counts.

    Raises:
        ResourceError: ``interface-missing``, ``interface-down``.
    """
    named = [link for link in picture.links.values() if network and link.name == network]
    fitting = [
        picture.links[one.index]
        for one in picture.assigned
        if not one.ours and address.ip in one.address.network and one.index in picture.links
    ]
    candidates = named or sorted(fitting, key=lambda link: not (link.up and link.carrier))
    if not candidates:
        where = f"no interface {network!r}, and " if network else ""
        raise ResourceError(
            f"{where}no interface of this node has an address in {address.network}",
            code="interface-missing",
            hint="name the interface in the parameter network, or give it an address",
        )
    if problem := _unusable(candidates[0]):
        raise ResourceError(problem, code="interface-down")
    return candidates[0]


def _unusable(link: Link | None) -> str:
    """Return why an interface cannot carry traffic, '' when it can."""
    if link is None:
        return "the interface was removed"
    if not link.up:
        return f"{link.name} is down"
    return "" if link.carrier else f"{link.name} has no carrier"


class IpAddress:
    """A virtual address; see :class:`leitwolf.resources.ResourceType`."""

    def __init__(self, surroundings: Surroundings) -> None:
        for problem in problems("ip_address", surroundings.order.parameters):
            raise ResourceError(
                problem.text, code=problem.code, hint=problem.hint, field=problem.field
            )
        address = address_of(surroundings.order.parameters)
        if address is None:
            raise ResourceError("no address", code="missing-parameter", field="address")
        self._address = address
        self._surroundings = surroundings
        self._network = surroundings.machine.network()
        self._link: Link | None = None
        self._begun = 0.0
        self._defended = 0.0

    async def start(self) -> None:
        """Add the address behind the gate and tell the neighbours.

        Raises:
            ResourceError: ``interface-missing``, ``interface-down``, ``address-in-use`` (this node
                has it by other hands), ``address-conflict`` (another has it),
                ``address-unmarked`` (the kernel is too old).
            OSError: the kernel refused.
        """
        order, gate = self._surroundings.order, self._surroundings.machine.gate
        address, ip = self._address, str(self._address.ip)
        picture = self._network.look()
        link = choose_link(picture, address, order.parameters.get("network", ""))
        holder = picture.holder(address)
        if holder is not None and not self._network.present(address):
            raise ResourceError(
                f"{holder.name} has {ip} already, but Leitwolf did not add it",
                code="address-in-use",
            )
        if order.first:
            await self._probe(link)
            if reason := self._surroundings.permitted():
                raise ResourceError(reason, code=NOT_PERMITTED)
        self._keep_others(link)
        gate.manage([ip])
        self._cover(link)
        self._network.add(link.index, address)
        if reason := self._surroundings.permitted():
            raise ResourceError(reason, code=NOT_PERMITTED)
        await self._hold(ip)
        self._link = link
        self._begun = asyncio.get_running_loop().time()
        self._surroundings.remember({"interface": link.name})
        self._announce()

    async def ready(self) -> None:
        """Return: an address is usable when it is there."""

    async def watch(self) -> None:
        """Announce, listen for others, and follow the interface.

        Raises:
            ResourceError: ``address-removed``, ``interface-removed``, ``interface-down``.
        """
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[ResourceError] = loop.create_future()

        def changed(picture: Picture) -> None:
            if (error := self._judge(picture)) is not None and not lost.done():
                lost.set_result(error)

        ends = (
            self._network.on_change(changed),
            self._network.listen(self._address, self._claimed),
        )
        try:
            changed(self._network.look())
            announcements = iter(ANNOUNCEMENTS_S[1:])
            while not lost.done():
                after = next(announcements, None)
                pause = REFRESH_S if after is None else self._begun + after - loop.time()
                if pause < 0:  # adopted: the first ones were told by an earlier host
                    continue
                await asyncio.wait({lost}, timeout=pause)
                if not lost.done():
                    self._announce()
            raise lost.result()
        finally:
            for end in ends:
                end()

    async def adopt(self) -> bool:
        """Find the address, and see that the gate holds it: the host may have died in between."""
        if not self._network.present(self._address):
            return False
        self._link = self._network.look().holder(self._address)
        ip = str(self._address.ip)
        self._surroundings.machine.gate.manage([ip])
        if self._link is not None:
            self._cover(self._link)
        await self._hold(ip)
        return True

    async def stop(self) -> None:
        """Let the address go and remove it.

        Raises:
            OSError: the kernel refused.
        """
        self.kill()

    def kill(self) -> None:
        """Let the address go and remove it."""
        gate, ip = self._surroundings.machine.gate, [str(self._address.ip)]
        try:
            self._network.remove(self._address)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                gate.hold(remove=ip)  # what cannot be removed shall not answer at least
            raise
        self._link = None
        # another node has it next: managed here, it could not be reached from this node
        with contextlib.suppress(FileNotFoundError):  # no gate: somebody flushed nftables
            gate.manage(remove=ip)

    async def stopped(self) -> bool:
        """Ask the kernel whether any interface has the address."""
        return not self._network.present(self._address)

    # --- on the way to online --------------------------------------------------------------------

    async def _probe(self, link: Link) -> None:
        """Ask the neighbours for 200 ms whether anybody has the address.

        Raises:
            ResourceError: ``address-conflict``.
        """
        heard: asyncio.Future[Claim] = asyncio.get_running_loop().create_future()

        def listener(claim: Claim) -> None:
            if not heard.done():
                heard.set_result(claim)

        end = self._network.listen(self._address, listener)
        try:
            for _ in range(PROBES):
                self._network.probe(link, self._address)
                await asyncio.wait({heard}, timeout=PROBE_INTERVAL_S)
                if heard.done():
                    raise ResourceError(
                        f"{self._address.ip} is in use on {link.name} by "
                        f"{heard.result().hardware.hex(':')}",
                        code="address-conflict",
                    )
        finally:
            end()

    async def _hold(self, ip: str) -> None:
        """Let the address answer under the lease that this start was ordered under, no other.

        Frozen meanwhile, this process thaws when another lease may have begun; the kernel then
        refuses. It also does while the guard's thread is about to arm, or to build the gate anew.

        Raises:
            ResourceError: :data:`NOT_PERMITTED`.
            OSError: the kernel refused.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + HOLD_WAIT_S
        while True:
            try:
                self._surroundings.machine.gate.hold([ip], lease=self._surroundings.order.lease)
            except FileNotFoundError as error:
                reason = self._surroundings.permitted()
                if not reason and loop.time() < until:
                    await asyncio.sleep(HOLD_POLL_S)
                    continue
                raise ResourceError(reason or "gate-other-lease", code=NOT_PERMITTED) from error
            return

    def _cover(self, link: Link) -> None:
        """Have announcements pass the gate as well; those of IPv6 do so anyway."""
        if not isinstance(self._address, ipaddress.IPv4Interface) or not link.resolves:
            return
        if not self._surroundings.machine.gate.cover(link.index, link.name):
            self._surroundings.note(
                "announcements-ungated", f"{link.name}: needs Linux 5.16 with NETFILTER_EGRESS"
            )

    def _keep_others(self, link: Link) -> None:
        """Have the kernel keep the other addresses of a subnet when its first one is removed.

        Two groups may have addresses of one subnet on an interface without another one; by default
        Linux removes all of them with the first (promote_secondaries off).
        """
        if not isinstance(self._address, ipaddress.IPv4Interface):
            return
        setting = Path(f"/proc/sys/net/ipv4/conf/{link.name}/promote_secondaries")
        try:
            if setting.read_text().strip() == "0":
                setting.write_text("1")
        except OSError as error:
            self._surroundings.note(
                "addresses-coupled", f"{setting}: {os.strerror(error.errno or 0)}"
            )

    # --- while online ----------------------------------------------------------------------------

    def _judge(self, picture: Picture) -> ResourceError | None:
        """Return the failure that a picture shows, None: the address is fine."""
        ip = self._address.ip
        holder = picture.holder(self._address)
        if holder is not None:
            self._link = holder
            problem = _unusable(holder)
            return ResourceError(problem, code="interface-down") if problem else None
        if self._link is not None and self._link.index in picture.links:
            return ResourceError(
                f"{ip} was removed from {self._link.name} by other hands", code="address-removed"
            )
        return ResourceError(f"the interface of {ip} was removed", code="interface-removed")

    def _announce(self) -> None:
        """Tell the neighbours, if this node may still use the address."""
        if self._link is None or self._surroundings.permitted():
            return
        try:
            self._network.announce(self._link, self._address)
        except OSError as error:
            # the interface goes down in this moment; its event says so next
            self._surroundings.note("not-announced", f"{self._link.name}: {error.strerror}")

    def _claimed(self, claim: Claim) -> None:
        """Somebody else claims the address: report, and answer at most once in a while."""
        if claim.probing:
            return  # the kernel answers a probe
        self._surroundings.note(
            "address-conflict", f"{self._address.ip} is also claimed by {claim.hardware.hex(':')}"
        )
        now = asyncio.get_running_loop().time()
        if now - self._defended >= DEFEND_S:
            self._defended = now
            self._announce()
