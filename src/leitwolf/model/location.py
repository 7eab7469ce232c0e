"""Where a witness is: one word, as ``leitwolf witness test`` and the configuration take it.

::

    share:/FOLDER/FILE[?local=yes]
    s3://BUCKET/KEY[?endpoint=URL&region=NAME]
    gs://BUCKET/KEY
    az://CONTAINER/KEY[?account=NAME&endpoint=URL]
    etcd://HOST:PORT[,HOST:PORT...]/KEY[?tls=yes&ca=/FILE]
    witness://HOST:PORT/NAME

Secrets are never part of it: it is kept in the log and shown in status and messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Protocol
from urllib.parse import parse_qsl, urlencode

import msgspec

from leitwolf.model.errors import InvalidConfig

__all__ = [
    "FORMS",
    "Endpoint",
    "EtcdLocation",
    "Location",
    "ObjectLocation",
    "ShareLocation",
    "WitnessLocation",
    "parse_listen",
    "parse_location",
]

FORMS = (
    "share:/FOLDER/FILE",
    "s3://BUCKET/KEY?endpoint=URL&region=NAME",
    "gs://BUCKET/KEY",
    "az://CONTAINER/KEY?account=NAME",
    "etcd://HOST:PORT,HOST:PORT/KEY?tls=yes&ca=/FILE",
    "witness://HOST:PORT/NAME",
)
_CHARACTERS_MAX = 1_024
_PORT_MAX = 0xFFFF
_ENDPOINTS_MAX = 16
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_KEY = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_URL = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+(/[A-Za-z0-9._/-]*)?")
_OPTIONS: Mapping[str, frozenset[str]] = {
    "share": frozenset({"local"}),
    "s3": frozenset({"endpoint", "region"}),
    "gs": frozenset(),
    "az": frozenset({"account", "endpoint"}),
    "etcd": frozenset({"tls", "ca"}),
    "witness": frozenset(),
}


class Endpoint(msgspec.Struct, frozen=True):
    """A host, name or address, and its port."""

    host: str
    """IPv6 addresses without brackets."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _Addressed(Protocol):
    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """What is said beside the address."""

    @property
    def address(self) -> str:
        """The location without its options: the name by which credentials are kept."""


class _Base(msgspec.Struct, frozen=True, kw_only=True):
    options: tuple[tuple[str, str], ...] = ()

    def option(self, name: str) -> str:
        """Return the value of an option, '' if it is not given."""
        return dict(self.options).get(name, "")

    def __str__(self: _Addressed) -> str:
        return self.address + (f"?{urlencode(self.options, safe=':/')}" if self.options else "")


class ShareLocation(_Base, frozen=True, kw_only=True):
    """A file on a file system that all nodes mount."""

    path: str
    """Absolute."""

    @property
    def address(self) -> str:
        """The location without its options."""
        return f"share:{self.path}"

    @property
    def local(self) -> bool:
        """The file system may be one of this machine alone: laboratories only."""
        return self.option("local") == "yes"

    def beside(self, suffix: str) -> ShareLocation:
        """Return the location of a scratch value beside this one."""
        return msgspec.structs.replace(self, path=f"{self.path}.{suffix}")


class ObjectLocation(_Base, frozen=True, kw_only=True):
    """An object in S3 or what speaks like it, Google Cloud Storage, or Azure."""

    scheme: str
    """s3, gs or az."""
    bucket: str
    key: str

    @property
    def address(self) -> str:
        """The location without its options."""
        return f"{self.scheme}://{self.bucket}/{self.key}"

    def beside(self, suffix: str) -> ObjectLocation:
        """Return the location of a scratch value beside this one."""
        return msgspec.structs.replace(self, key=f"{self.key}.{suffix}")


class EtcdLocation(_Base, frozen=True, kw_only=True):
    """A key in an etcd cluster."""

    endpoints: tuple[Endpoint, ...]
    """Members of one etcd cluster, tried in this order; 1..16."""
    key: str

    @property
    def address(self) -> str:
        """The location without its options."""
        return f"etcd://{','.join(map(str, self.endpoints))}/{self.key}"

    @property
    def tls(self) -> bool:
        """Speak TLS."""
        return self.option("tls") == "yes"

    def beside(self, suffix: str) -> EtcdLocation:
        """Return the location of a scratch value beside this one."""
        return msgspec.structs.replace(self, key=f"{self.key}.{suffix}")


class WitnessLocation(_Base, frozen=True, kw_only=True):
    """A value kept by ``leitwolf witness serve``."""

    endpoint: Endpoint
    name: str
    """Under which the witness keeps it: usually the UUID of the cluster."""
    scratch: str = ""
    """Which value of that name; '': the real one."""

    @property
    def address(self) -> str:
        """The location without its options and without the scratch value."""
        return f"witness://{self.endpoint}/{self.name}"

    def beside(self, suffix: str) -> WitnessLocation:
        """Return the location of a scratch value beside this one."""
        return msgspec.structs.replace(self, scratch=suffix)


Location = ShareLocation | ObjectLocation | EtcdLocation | WitnessLocation


def _refused(text: str, why: str) -> InvalidConfig:
    return InvalidConfig(
        f"location {text[:100]!r}: {why}",
        hint=f"allowed forms: {'  '.join(FORMS)}",
        field="location",
    )


def parse_location(text: str) -> Location:
    """Return what a location says. Asks nobody.

    Raises:
        InvalidConfig: unknown scheme or malformed; the text names field and value, the hint the
            allowed forms.
    """
    if len(text) > _CHARACTERS_MAX:
        raise _refused(text, f"{len(text)} characters, at most {_CHARACTERS_MAX} are right")
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in _OPTIONS:
        raise _refused(text, f"it begins with none of {', '.join(_OPTIONS)}")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise _refused(text, "it has spaces or characters that are not printable ASCII")
    place, _, query = rest.partition("?")
    options = _options(text, scheme, query)
    if scheme == "share":
        return _share(text, place, options)
    if not place.startswith("//"):
        raise _refused(text, f"'{scheme}:' is not followed by '//'")
    where, _, key = place[2:].partition("/")
    if scheme in {"etcd", "witness"}:
        endpoints = tuple(_endpoint(text, item) for item in where.split(","))
        if scheme == "witness":
            return _witness(text, endpoints, key)
        return _etcd(text, endpoints, key, options)
    return _object(text, scheme, where, key, options)


def _options(text: str, scheme: str, query: str) -> tuple[tuple[str, str], ...]:
    if not query:
        return ()
    try:
        pairs = parse_qsl(query, strict_parsing=True, keep_blank_values=True)
    except ValueError as error:
        raise _refused(text, f"the options {query!r} are not NAME=VALUE&NAME=VALUE") from error
    names = [name for name, _ in pairs]
    for name, value in pairs:
        if name not in _OPTIONS[scheme]:
            allowed = ", ".join(sorted(_OPTIONS[scheme])) or "none"
            raise _refused(text, f"{scheme} has no option {name!r}; it has {allowed}")
        if name in {"local", "tls"} and value not in {"yes", "no"}:
            raise _refused(text, f"{name} is {value!r}, neither yes nor no")
        if name == "endpoint" and not _URL.fullmatch(value):
            raise _refused(text, f"endpoint {value!r} is not http://HOST:PORT or https://...")
        if name == "ca" and not value.startswith("/"):
            raise _refused(text, f"ca {value!r} is no absolute path")
        if name in {"region", "account"} and not _NAME.fullmatch(value):
            raise _refused(text, f"{name} {value!r} is not 1..63 letters, digits and '-'")
    if len(set(names)) != len(names):
        raise _refused(text, "an option is given twice")
    return tuple(sorted(pairs))


def _share(text: str, place: str, options: tuple[tuple[str, str], ...]) -> ShareLocation:
    path = PurePosixPath(place)
    if not path.is_absolute() or place.startswith("//") or str(path) != place:
        raise _refused(text, f"{place!r} is no plain absolute path")
    if ".." in path.parts or len(path.parts) < 3:
        raise _refused(text, f"{place!r} is not a file in a folder of a mounted file system")
    return ShareLocation(path=place, options=options)


def _endpoint(text: str, where: str) -> Endpoint:
    host, colon, port = where.rpartition(":")
    if not colon or not _HOST.fullmatch(host):
        raise _refused(text, f"{where!r} is not HOST:PORT (IPv6 addresses in brackets)")
    if not port.isdigit() or len(port) > 5 or not 1 <= int(port) <= _PORT_MAX:
        raise _refused(text, f"port {port!r} is not 1..{_PORT_MAX}")
    return Endpoint(host.strip("[]"), int(port))


def _etcd(
    text: str, endpoints: tuple[Endpoint, ...], key: str, options: tuple[tuple[str, str], ...]
) -> EtcdLocation:
    if len(endpoints) > _ENDPOINTS_MAX or len(set(endpoints)) != len(endpoints):
        raise _refused(text, f"not 1..{_ENDPOINTS_MAX} different endpoints")
    if not _KEY.fullmatch(key):
        raise _refused(text, f"key {key!r} is not NAME/NAME of letters, digits and '._-'")
    location = EtcdLocation(endpoints=endpoints, key=key, options=options)
    if location.option("ca") and not location.tls:
        raise _refused(text, "ca counts with tls=yes only")
    return location


def _witness(text: str, endpoints: tuple[Endpoint, ...], name: str) -> WitnessLocation:
    if len(endpoints) != 1:
        raise _refused(text, f"{len(endpoints)} endpoints; a witness is one machine")
    if not _NAME.fullmatch(name):
        raise _refused(text, f"name {name!r} is not 1..63 letters, digits and '-'")
    return WitnessLocation(endpoint=endpoints[0], name=name)


def _object(
    text: str, scheme: str, bucket: str, key: str, options: tuple[tuple[str, str], ...]
) -> ObjectLocation:
    if not _BUCKET.fullmatch(bucket):
        raise _refused(text, f"bucket {bucket!r} is not 3..63 lower-case letters, digits and '.-_'")
    if not _KEY.fullmatch(key):
        raise _refused(text, f"key {key!r} is not NAME/NAME of letters, digits and '._-'")
    return ObjectLocation(scheme=scheme, bucket=bucket, key=key, options=options)


def parse_listen(text: str) -> Endpoint:
    """Return address and port at which to listen.

    Raises:
        InvalidConfig: it is not ADDRESS:PORT; IPv6 addresses are in brackets, port 0 is any.
    """
    host, colon, port = text.rpartition(":")
    good = colon and _HOST.fullmatch(host) and port.isdigit() and len(port) <= 5
    if not good or int(port) > _PORT_MAX:
        raise InvalidConfig(
            f"listen {text[:100]!r} is not ADDRESS:PORT, port 0..{_PORT_MAX}",
            hint="for example 0.0.0.0:6475 or [::]:6475",
            field="listen",
        )
    return Endpoint(host.strip("[]"), int(port))
