"""Resource types: what a group is made of, and how each is started, watched and stopped.

A type is a class that satisfies :class:`ResourceType`. The host makes one instance for every start
(or adoption) of a resource, and calls it in this order, one call at a time::

    start() -> ready() -> watch() ...  -> stop() -> stopped()
    adopt() -> ready() -> watch() ...  -> stop() -> stopped()

``kill`` may come at any moment. ``docs/add-a-resource-type.md`` walks through an example.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Protocol, cast

from leitwolf.model.errors import ResourceError
from leitwolf.resources._network import Network
from leitwolf.resources._surroundings import NOT_PERMITTED, ExitStatus, Machine, Surroundings

__all__ = [
    "NOT_PERMITTED",
    "TYPES",
    "ExitStatus",
    "Machine",
    "Network",
    "ResourceType",
    "Surroundings",
    "load_types",
    "make_resource",
]


class ResourceType(Protocol):
    """One start of one resource. Made with its :class:`Surroundings`; constructing does nothing.

    Errors: every method that may fail raises :class:`ResourceError` with a stable kebab-case code
    (it becomes the code of the resource's report) or OSError. After a start that failed or was
    cancelled the host calls ``kill``, then ``stop``.
    """

    async def start(self) -> None:
        """Begin to run. May be cancelled at any await, by an order to stop.

        Whatever runs must run in a cell of the containment, and whatever answers must stand behind
        the gate, so that the guard can end it without this process. What ``adopt`` will need goes
        through ``surroundings.remember``.
        """

    async def ready(self) -> None:
        """Return when clients can use the resource; raise when that cannot happen any more."""

    async def watch(self) -> None:
        """Run while the resource is online; raise ResourceError when it failed. Never returns."""

    async def adopt(self) -> bool:
        """Take over what an earlier host process left running.

        Nothing is started or disturbed. Return False when it does not run; raise ResourceError to
        say more about its end (``exited`` with its status).
        """

    async def stop(self) -> None:
        """End it in an orderly way, then by force; return when nothing is left.

        Must come to an end by itself and work from every state, also when nothing was started.

        Raises:
            ResourceError: something is left (``stop-timeout``).
        """

    def kill(self) -> None:
        """End it at once, without waiting: the lease is over. ``stop`` follows and waits."""

    async def stopped(self) -> bool:
        """Ask the kernel, not memory, whether nothing is left: the answer is attested (I11)."""


TYPES = {
    "process": "leitwolf.resources.process:Process",
    "ip_address": "leitwolf.resources.ip_address:IpAddress",
}
"""Implementation of each type, ``module:class``."""


def load_types() -> None:
    """Import every type now: an import on the path of a failover costs 10 ms."""
    for where in TYPES.values():
        import_module(where.partition(":")[0])


def make_resource(name: str, surroundings: Surroundings) -> ResourceType:
    """Return a new instance of the type called ``name``.

    Raises:
        ResourceError: ``unknown-type``, or a problem of the parameters.
    """
    if name not in TYPES:
        raise ResourceError(
            f"no resource type {name!r} here (known: {', '.join(sorted(TYPES))})",
            code="unknown-type",
        )
    module, _, attribute = TYPES[name].partition(":")
    factory = cast(
        "Callable[[Surroundings], ResourceType]", getattr(import_module(module), attribute)
    )
    return factory(surroundings)
