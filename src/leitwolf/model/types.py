"""Resource types as data: which parameters each has, and how a value is checked.

Values are strings in the log. This module knows what can be said without looking at a machine or
at the cluster; whether an address fits a network is checked where commands are judged.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from leitwolf.model.limits import PARAMETER_BYTES_MAX

__all__ = ["TYPES", "Parameter", "Problem", "ResourceType", "address_of", "problems", "value_of"]


class _Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Parameter(_Data, frozen=True, kw_only=True):
    """One parameter of a type."""

    name: str
    kind: str
    """``integer``, ``text``, ``address``, ``network``, ``command``, ``account``, ``path``,
    ``environment``, ``signal``, ``endpoint`` or ``url``."""
    required: bool = False
    default: str = ""
    """As it would be written; '': none."""
    minimum: int | None = None
    """Of integers."""
    maximum: int | None = None
    text: str


class ResourceType(_Data, frozen=True, kw_only=True):
    """One type of resource."""

    name: str
    text: str
    parameters: tuple[Parameter, ...]
    exclusive: tuple[tuple[str, ...], ...] = ()
    """Sets of parameters of which at most one may be given."""

    def parameter(self, name: str) -> Parameter | None:
        """Return a parameter by its name, or None."""
        return next((item for item in self.parameters if item.name == name), None)


class Problem(_Data, frozen=True, kw_only=True):
    """What is wrong with a parameter and what to do."""

    code: str
    field: str
    text: str
    hint: str = ""


def _duration(name: str, default: int, minimum: int, maximum: int, text: str) -> Parameter:
    return Parameter(
        name=name,
        kind="integer",
        default=str(default),
        minimum=minimum,
        maximum=maximum,
        text=f"{text}, in milliseconds.",
    )


_HOUR_MS = 3_600_000

TYPES: dict[str, ResourceType] = {
    kind.name: kind
    for kind in (
        ResourceType(
            name="ip_address",
            text="A virtual IPv4 or IPv6 address by which clients reach the group.",
            parameters=(
                Parameter(
                    name="address",
                    kind="address",
                    required=True,
                    text="The address with its prefix: 192.0.2.10/24 or 2001:db8::10/64.",
                ),
                Parameter(
                    name="network",
                    kind="network",
                    text=(
                        "Network of the cluster, or interface, that carries it; without it the "
                        "client network in whose subnet it lies."
                    ),
                ),
            ),
        ),
        ResourceType(
            name="process",
            text="A program that runs in the foreground and is supervised.",
            parameters=(
                Parameter(
                    name="command",
                    kind="command",
                    required=True,
                    text="Program and arguments, quoted as in a shell; no shell runs it.",
                ),
                Parameter(name="user", kind="account", text="User (name or number) it runs as."),
                Parameter(name="group", kind="account", text="Group (name or number) it runs as."),
                Parameter(
                    name="environment",
                    kind="environment",
                    text="NAME=VALUE pairs separated by blanks, quoted as in a shell.",
                ),
                Parameter(
                    name="working_directory", kind="path", default="/", text="Where it starts."
                ),
                Parameter(
                    name="stop_signal",
                    kind="signal",
                    default="TERM",
                    text="Signal that asks it to end.",
                ),
                _duration(
                    "stop_timeout_ms", 10_000, 0, _HOUR_MS, "Time to end before it is killed"
                ),
                _duration("start_timeout_ms", 60_000, 1, _HOUR_MS, "Time to start"),
                _duration("ready_timeout_ms", 30_000, 1, _HOUR_MS, "Time until its check succeeds"),
                Parameter(
                    name="output_bytes_max",
                    kind="integer",
                    default=str(10 << 20),
                    minimum=4_096,
                    maximum=1 << 40,
                    text="Bound of the file with its output and its old part together, in bytes. "
                    "At half of it, looked at once a second, the file becomes the old part.",
                ),
                Parameter(
                    name="check_command",
                    kind="command",
                    text="Command that ends with status 0 while the service is healthy.",
                ),
                Parameter(
                    name="check_tcp",
                    kind="endpoint",
                    text="ADDRESS:PORT that accepts connections while it is healthy.",
                ),
                Parameter(
                    name="check_http",
                    kind="url",
                    text="http:// address that answers with a status below 400 while healthy.",
                ),
                _duration("check_interval_ms", 5_000, 20, _HOUR_MS, "Time between two checks"),
                _duration("check_timeout_ms", 3_000, 1, _HOUR_MS, "Time for one check"),
                Parameter(
                    name="check_failures",
                    kind="integer",
                    default="2",
                    minimum=1,
                    maximum=1_000,
                    text="Checks that must fail in a row.",
                ),
            ),
            exclusive=(("check_command", "check_tcp", "check_http"),),
        ),
    )
}

_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?")
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,62}")
_SIGNALS = frozenset(
    {"ABRT", "ALRM", "CONT", "HUP", "INT", "KILL", "PIPE", "POLL", "PWR", "QUIT", "STOP", "TERM"}
    | {"USR1", "USR2", "WINCH"}
)
_SIGNAL_NUMBER_MAX = 64
_PORT_MAX = 65_535


def address_of(
    parameters: Mapping[str, str],
) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface | None:
    """Return the virtual address among checked parameters, or None when there is none."""
    text = parameters.get("address", "")
    if "/" not in text:
        return None
    try:
        return ipaddress.ip_interface(text)
    except ValueError:
        return None


def value_of(type_name: str, parameters: Mapping[str, str], name: str) -> str:
    """Return the value of a parameter: the one given, else the default of the type."""
    given = parameters.get(name, "")
    if given:
        return given
    found = TYPES[type_name].parameter(name)
    return found.default if found else ""


def problems(type_name: str, parameters: Mapping[str, str]) -> list[Problem]:
    """Return everything that is wrong with the parameters of a resource; [] when nothing is.

    An empty value counts as not given.
    """
    kind = TYPES.get(type_name)
    if kind is None:
        return [
            Problem(
                code="unknown-type",
                field="type",
                text=f"there is no resource type {type_name!r}",
                hint=f"types: {', '.join(sorted(TYPES))}",
            )
        ]
    found: list[Problem] = []
    for name in sorted(parameters):
        parameter = kind.parameter(name)
        if parameter is None:
            known = ", ".join(item.name for item in kind.parameters)
            text = f"{type_name} has no parameter {name!r}"
            found.append(
                Problem(code="unknown-parameter", field=name, text=text, hint=f"it has: {known}")
            )
        elif parameters[name] and (wrong := _wrong(parameter, parameters[name])):
            found.append(
                Problem(
                    code="invalid-parameter",
                    field=name,
                    text=f"{name} = {_short(parameters[name])}: {wrong}",
                    hint=parameter.text,
                )
            )
    for parameter in kind.parameters:
        if parameter.required and not parameters.get(parameter.name):
            text = f"{type_name} needs the parameter {parameter.name}"
            found.append(
                Problem(
                    code="missing-parameter", field=parameter.name, text=text, hint=parameter.text
                )
            )
    for names in kind.exclusive:
        given = [name for name in names if parameters.get(name)]
        if len(given) > 1:
            text = f"only one of {', '.join(names)} may be given, not {' and '.join(given)}"
            found.append(Problem(code="invalid-parameter", field=given[1], text=text))
    return found


def _short(value: str) -> str:
    return repr(value if len(value) <= 80 else value[:77] + "...")


def _wrong(parameter: Parameter, value: str) -> str:
    """Return what is wrong with a value that is given, '' when nothing is."""
    if len(value.encode("utf-8", "surrogatepass")) > PARAMETER_BYTES_MAX:
        return f"longer than {PARAMETER_BYTES_MAX} bytes"
    if "\0" in value:
        return "holds a NUL character"
    return _KINDS[parameter.kind](parameter, value)


def _wrong_integer(parameter: Parameter, value: str) -> str:
    low, high = parameter.minimum, parameter.maximum
    number = int(value) if value.isascii() and value.isdigit() and len(value) <= 18 else None
    if number is None:
        return f"must be a whole number, {low}..{high}"
    if (low is not None and number < low) or (high is not None and number > high):
        return f"must be within {low}..{high}"
    return ""


def _wrong_address(_parameter: Parameter, value: str) -> str:
    if "/" not in value:
        return "must have its prefix length, for example 192.0.2.10/24"
    try:
        address = ipaddress.ip_interface(value)
    except ValueError:
        return "is no IP address with prefix"
    if value.partition("/")[2].count("."):
        return "must have its prefix as a length, for example /24"
    if "%" in value:
        return "must not have a zone; name the interface in network"
    ip = address.ip
    if ip.is_multicast or ip.is_unspecified or ip.is_loopback:
        return "cannot be reached by clients"
    network = address.network
    if ip.version == 4 and network.prefixlen < 31:  # RFC 3021: a /31 has two hosts
        if ip == network.broadcast_address:
            return "is the broadcast address of its network"
        if ip == network.network_address:
            return "is the address of its network itself"
    return ""


def _wrong_command(_parameter: Parameter, value: str) -> str:
    try:
        return "" if shlex.split(value) else "is empty"
    except ValueError as error:
        return f"cannot be split into words: {error}"


def _wrong_environment(parameter: Parameter, value: str) -> str:
    if wrong := _wrong_command(parameter, value):
        return wrong
    for word in shlex.split(value):
        name, equals, _ = word.partition("=")
        if not name or not equals:
            return f"{word!r} is not of the form NAME=VALUE"
    return ""


def _wrong_account(_parameter: Parameter, value: str) -> str:
    return "" if _ACCOUNT.fullmatch(value) else "is no name or number of an account"


def _wrong_network(_parameter: Parameter, value: str) -> str:
    return "" if _NETWORK.fullmatch(value) else "is no name of a network or interface"


def _wrong_path(_parameter: Parameter, value: str) -> str:
    return "" if value.startswith("/") else "must be absolute"


def _wrong_signal(_parameter: Parameter, value: str) -> str:
    name = value.strip().upper()
    if name.isascii() and name.isdigit():
        return "" if 1 <= int(name) <= _SIGNAL_NUMBER_MAX else "is no signal"
    return "" if name.removeprefix("SIG") in _SIGNALS else "is no signal"


def _wrong_host(host: str) -> str:
    """Checks resolve no names: a name server may be down just then."""
    if host == "localhost":
        return ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return f"{host!r} is no numeric address (checks resolve no names)"
    return ""


def _wrong_endpoint(_parameter: Parameter, value: str) -> str:
    host, _, port = value.rpartition(":")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= _PORT_MAX):
        return f"must be of the form ADDRESS:PORT with a port of 1..{_PORT_MAX}"
    if host.startswith("[") and host.endswith("]"):
        return _wrong_host(host[1:-1])
    if ":" in host:  # 2001:db8::10:80 is an address, too
        return f"must have an IPv6 address in brackets: [{host}]:{port}"
    return _wrong_host(host)


def _wrong_url(_parameter: Parameter, value: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        return str(error)
    if parts.scheme != "http" or not parts.hostname or port == 0:
        return "must be of the form http://ADDRESS[:PORT]/PATH"
    return _wrong_host(parts.hostname)


_KINDS = {
    "integer": _wrong_integer,
    "address": _wrong_address,
    "network": _wrong_network,
    "command": _wrong_command,
    "account": _wrong_account,
    "path": _wrong_path,
    "environment": _wrong_environment,
    "signal": _wrong_signal,
    "endpoint": _wrong_endpoint,
    "url": _wrong_url,
}
