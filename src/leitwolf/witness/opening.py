"""From a location to the value behind it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from leitwolf.model.errors import InvalidConfig
from leitwolf.model.location import (
    EtcdLocation,
    Location,
    ObjectLocation,
    ShareLocation,
    parse_location,
)
from leitwolf.ports.witness import RemovableCas
from leitwolf.witness.bounded import Bounded
from leitwolf.witness.credentials import load_credentials
from leitwolf.witness.selftest import SelfTestReport, self_test

__all__ = ["open_cas", "open_location", "try_location"]

_TIMEOUT_S_MAX = 600.0
_START_S = 10.0
"""For the start of the second process."""
_VARIABLES: Mapping[str, Mapping[str, str]] = {
    "etcd": {"username": "LEITWOLF_ETCD_USERNAME", "password": "LEITWOLF_ETCD_PASSWORD"},
    "witness": {"token": "LEITWOLF_WITNESS_TOKEN"},
}


def open_cas(location: str, *, config_dir: Path | None, timeout_s: float) -> Bounded:
    """Open the value at a location. Asks nobody yet.

    Args:
        location: see :mod:`leitwolf.model.location`.
        config_dir: where ``witness.ini`` is; None: environment only.
        timeout_s: seconds for one call, above 0, at most 600; a call that takes longer fails and
            may still happen.

    Raises:
        InvalidConfig: the location, the credentials or the limit are wrong.
    """
    return open_location(parse_location(location), config_dir=config_dir, timeout_s=timeout_s)


def open_location(
    location: Location,
    *,
    config_dir: Path | None,
    timeout_s: float,
    kept_as: Location | None = None,
) -> Bounded:
    """Open the value at a location, see :func:`open_cas`.

    ``kept_as``: by which location ``witness.ini`` has the secrets; None: by this one.
    """
    if not 0 < timeout_s <= _TIMEOUT_S_MAX:
        raise InvalidConfig(
            f"timeout {timeout_s:g} s is not above 0 and at most {_TIMEOUT_S_MAX:g}",
            field="timeout",
        )
    inner = _inner(location, kept_as or location, config_dir, timeout_s)
    return Bounded(inner, timeout_s=timeout_s, what=location.address)


def _inner(
    location: Location, kept_as: Location, config_dir: Path | None, timeout_s: float
) -> RemovableCas:
    # Each back-end is imported when it is used: they bring TLS, HTTP, obstore.
    if isinstance(location, ShareLocation):
        from leitwolf.witness.share import ShareCas  # noqa: PLC0415

        return ShareCas(location, timeout_s=timeout_s)
    credentials = _credentials(kept_as, config_dir)
    if isinstance(location, ObjectLocation):
        from leitwolf.witness.object_store import ObjectStoreCas  # noqa: PLC0415

        return ObjectStoreCas(location, credentials, timeout_s=timeout_s)
    if isinstance(location, EtcdLocation):
        from leitwolf.witness.etcd import EtcdCas  # noqa: PLC0415

        # One endpoint that is silent must leave time for the others.
        share_s = timeout_s / len(location.endpoints)
        return EtcdCas(location, credentials, timeout_s=share_s)
    from leitwolf.witness.remote import RemoteCas  # noqa: PLC0415

    return RemoteCas(location, credentials, timeout_s=timeout_s)


def _credentials(location: Location, config_dir: Path | None) -> Mapping[str, str]:
    """Return what the file has for a location, or else the environment."""
    found = load_credentials(location, config_dir)
    scheme = location.address.partition(":")[0]
    variables = _VARIABLES.get(scheme, {})
    return found or {name: os.environ[v] for name, v in variables.items() if v in os.environ}


def try_location(
    location: str,
    *,
    config_dir: Path | None,
    timeout_s: float,
    scratch: str = "",
    begun: Callable[[Bounded], None] = lambda _: None,
) -> SelfTestReport:
    """Try the store behind a location, with a scratch value beside the real one.

    The second client is another process, where that makes a difference: a share.

    Args:
        location: of the real value.
        config_dir: as for :func:`open_cas`.
        timeout_s: as for :func:`open_cas`.
        scratch: what is added to the name, letters, digits and '-', no other test that runs may
            have it; '': something random.
        begun: is told of each client, whose thread may outlast a failure.

    Raises:
        InvalidConfig: as for :func:`open_cas`.
        WitnessError: it cannot be reached, denies access, or lost a reply.
    """
    real = parse_location(location)
    place = real.beside(f"selftest-{scratch or os.urandom(8).hex()}")
    opened = 0

    def open_scratch() -> RemovableCas:
        nonlocal opened
        opened += 1
        if isinstance(place, ShareLocation) and opened > 1:
            from leitwolf.witness.sharetest import OtherProcessCas  # noqa: PLC0415 — as above

            other = OtherProcessCas(place, timeout_s=timeout_s)
            made = Bounded(other, timeout_s=timeout_s + _START_S, what=place.address)
        else:
            made = open_location(place, config_dir=config_dir, timeout_s=timeout_s, kept_as=real)
        begun(made)
        return made

    return self_test(open_scratch)
