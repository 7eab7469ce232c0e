"""Fixed binary layouts for small messages, declared as dataclasses.

A message class is a frozen dataclass registered with a kind number; its fields in order:

========================  ==========================================
annotation                bytes (big endian)
========================  ==========================================
``int``                   8, signed
``bool``                  1
``Ballot``                12: epoch, round, node as 32 bit unsigned
``str``, ``bytes``        2 byte length, then the data (UTF-8)
``tuple[X, ...]``         2 byte count, then the items
a registered dataclass    its fields, without the kind number
========================  ==========================================

Decoding accepts exactly what encoding makes: a short, long or out-of-range input raises
:class:`LayoutError`, never anything else. Standard library only: the guard imports this module.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
import struct
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from leitwolf.wire.ballot import Ballot

__all__ = ["LayoutError", "Registry"]

_INT = struct.Struct(">q")
_BALLOT = struct.Struct(">III")
_COUNT = struct.Struct(">H")
_KIND = struct.Struct(">B")
_MESSAGE_BYTES_MAX = 65_535

_Reader = Callable[[bytes, int], tuple[Any, int]]
_Writer = Callable[[Any, bytearray], None]
T = TypeVar("T")


class LayoutError(ValueError):
    """The bytes are not a message of this layout."""


def _write_int(value: int, out: bytearray) -> None:
    out += _INT.pack(value)


def _read_int(data: bytes, at: int) -> tuple[int, int]:
    return _INT.unpack_from(data, at)[0], at + 8


def _write_bool(value: bool, out: bytearray) -> None:
    out.append(1 if value else 0)


def _read_bool(data: bytes, at: int) -> tuple[bool, int]:
    if data[at] > 1:
        raise LayoutError(f"boolean byte {data[at]} at offset {at}")
    return data[at] == 1, at + 1


def _write_ballot(value: Ballot, out: bytearray) -> None:
    out += _BALLOT.pack(*value)


def _read_ballot(data: bytes, at: int) -> tuple[Ballot, int]:
    return Ballot(*_BALLOT.unpack_from(data, at)), at + 12


def _write_bytes(value: bytes, out: bytearray) -> None:
    out += _COUNT.pack(len(value))
    out += value


def _read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    (length,) = _COUNT.unpack_from(data, at)
    end = at + 2 + length
    if end > len(data):
        raise LayoutError(f"{length} bytes announced at offset {at}, {len(data) - at - 2} there")
    return data[at + 2 : end], end


def _write_str(value: str, out: bytearray) -> None:
    _write_bytes(value.encode(), out)


def _read_str(data: bytes, at: int) -> tuple[str, int]:
    raw, at = _read_bytes(data, at)
    return raw.decode(), at


_SCALARS: dict[Any, tuple[_Writer, _Reader]] = {
    int: (_write_int, _read_int),
    bool: (_write_bool, _read_bool),
    Ballot: (_write_ballot, _read_ballot),
    bytes: (_write_bytes, _read_bytes),
    str: (_write_str, _read_str),
}


def _sequence(writer: _Writer, reader: _Reader) -> tuple[_Writer, _Reader]:
    def write(values: tuple[Any, ...], out: bytearray) -> None:
        out += _COUNT.pack(len(values))
        for value in values:
            writer(value, out)

    def read(data: bytes, at: int) -> tuple[tuple[Any, ...], int]:
        (count,) = _COUNT.unpack_from(data, at)
        at += 2
        items = []
        for _ in range(count):
            item, at = reader(data, at)
            items.append(item)
        return tuple(items), at

    return write, read


_FIXED: dict[Any, tuple[str, str]] = {int: ("q", "q"), bool: ("?", "B"), Ballot: ("III", "III")}
"""How values of fixed length are packed, and unpacked: of a flag every bit is looked at."""

_Fields = list[tuple[str, Any]]
_Encoder = Callable[[Any, bytearray], None]
_Decoder = Callable[[bytes, int, list[Any]], int]
"""Append the values of some fields to a list and return where the next field begins."""


def _one(name: str, codec: tuple[_Writer, _Reader]) -> tuple[_Encoder, _Decoder]:
    """Return the codec of one field of a class."""
    writer, reader = codec

    def encode(message: Any, out: bytearray) -> None:
        writer(getattr(message, name), out)

    def decode(data: bytes, at: int, values: list[Any]) -> int:
        value, at = reader(data, at)
        values.append(value)
        return at

    return encode, decode


def _fixed(fields: _Fields) -> tuple[_Encoder, _Decoder]:
    """Return the codec of two or more fields of fixed length in a row: one call for all of them.

    Heartbeats and their answers are such, and a guard reads and writes a hundred of them a second.
    """
    packer = struct.Struct(">" + "".join(_FIXED[kind][0] for _, kind in fields))
    unpacker = struct.Struct(">" + "".join(_FIXED[kind][1] for _, kind in fields))
    names: list[str] = []
    ballots: list[int] = []
    for name, kind in fields:
        if kind is Ballot:
            ballots.insert(0, len(names))
            names += (f"{name}.{part}" for part in Ballot._fields)
        else:
            names.append(name)
    flags = [number for number, (_, kind) in enumerate(fields) if kind is bool]
    values_of = operator.attrgetter(*names)

    def encode(message: Any, out: bytearray) -> None:
        out += packer.pack(*values_of(message))

    def decode(data: bytes, at: int, values: list[Any]) -> int:
        found: list[Any] = list(unpacker.unpack_from(data, at))
        for first in ballots:  # the last one first: the places of the others stay
            found[first : first + 3] = (Ballot(*found[first : first + 3]),)
        for flag in flags:
            if found[flag] > 1:
                raise LayoutError(f"boolean byte {found[flag]} behind offset {at}")
            found[flag] = found[flag] == 1
        values += found
        return at + unpacker.size

    return encode, decode


class Registry:
    """The message classes of one channel, by kind number."""

    def __init__(self) -> None:
        self._codec: dict[type, tuple[_Writer, _Reader]] = {}
        self._kind_of: dict[type, int] = {}
        self._class_of: dict[int, type] = {}

    def part(self, cls: type[T]) -> type[T]:
        """Register a dataclass that occurs only inside messages."""
        self._codec[cls] = self._compile(cls)
        return cls

    def message(self, kind: int) -> Callable[[type[T]], type[T]]:
        """Return a decorator that registers a dataclass as the message of this kind (0..255)."""

        def register(cls: type[T]) -> type[T]:
            if kind in self._class_of:
                raise ValueError(f"kind {kind} is taken by {self._class_of[kind].__name__}")
            self.part(cls)
            self._kind_of[cls] = kind
            self._class_of[kind] = cls
            return cls

        return register

    def _field_codec(self, annotation: Any) -> tuple[_Writer, _Reader]:
        if annotation in _SCALARS:
            return _SCALARS[annotation]
        if annotation in self._codec:
            return self._codec[annotation]
        arguments = typing.get_args(annotation)
        if typing.get_origin(annotation) is tuple and len(arguments) == 2 and arguments[1] is ...:
            return _sequence(*self._field_codec(arguments[0]))
        raise TypeError(f"no layout for {annotation!r}")

    def _compile(self, cls: type) -> tuple[_Writer, _Reader]:
        hints = typing.get_type_hints(cls)
        fields = [(field.name, hints[field.name]) for field in dataclasses.fields(cls)]
        codecs: list[tuple[_Encoder, _Decoder]] = []
        for fixed, run in itertools.groupby(fields, lambda field: field[1] in _FIXED):
            together = list(run)
            if fixed and len(together) > 1:
                codecs.append(_fixed(together))
            else:
                codecs += (_one(name, self._field_codec(kind)) for name, kind in together)

        def write(value: Any, out: bytearray) -> None:
            for encode, _ in codecs:
                encode(value, out)

        def read(data: bytes, at: int) -> tuple[Any, int]:
            values: list[Any] = []
            for _, decode in codecs:
                at = decode(data, at, values)
            return cls(*values), at

        return write, read

    def encode(self, message: object) -> bytes:
        """Return kind number and fields as bytes.

        Raises:
            LayoutError: a value does not fit its field, or the message is above 65535 bytes.
        """
        cls = type(message)
        out = bytearray(_KIND.pack(self._kind_of[cls]))
        try:
            self._codec[cls][0](message, out)
        except (struct.error, UnicodeError, OverflowError) as error:
            raise LayoutError(f"{message!r} does not fit its layout: {error}") from error
        if len(out) > _MESSAGE_BYTES_MAX:
            raise LayoutError(f"{cls.__name__} of {len(out)} bytes, at most {_MESSAGE_BYTES_MAX}")
        return bytes(out)

    def decode(self, data: bytes) -> Any:
        """Return the message in these bytes.

        Raises:
            LayoutError: unknown kind, or the bytes are not exactly one such message.
        """
        cls = self._class_of.get(data[0]) if data else None
        if cls is None:
            raise LayoutError(f"unknown kind {data[0] if data else None}")
        try:
            message, end = self._codec[cls][1](data, 1)
        except (struct.error, IndexError, UnicodeError) as error:
            raise LayoutError(f"broken {cls.__name__}: {error}") from error
        if end != len(data):
            raise LayoutError(f"{len(data) - end} bytes after {cls.__name__}")
        return message
