"""The join token as one word."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import string
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leitwolf.daemon.admission import new_token
from leitwolf.model.commands import Answer, Refusal
from leitwolf.model.errors import InvalidConfig, UnavailableError
from leitwolf.peers import join
from leitwolf.peers.frames import Rejection
from leitwolf.peers.token import JoinToken, digest, format_token, new_secret, parse_token

TOKEN = JoinToken(
    cluster="0b8f8a3e-5d5c-4c37-9a8e-0d3f4f0e7f11",
    name="web",
    port=6474,
    addresses=("10.0.0.1", "fd00::1"),
    authority="ab" * 32,
    secret=bytes(range(16)),
)
WORD = format_token(TOKEN)


def test_round_trip() -> None:
    """What goes in comes out; the word is printable and has no separators to trip over."""
    assert parse_token(WORD) == TOKEN
    assert WORD.isascii()
    assert all(letter.isalnum() or letter in "-_" for letter in WORD)


def test_white_space_is_ignored() -> None:
    """A token that a terminal or mail wrapped is still whole."""
    assert parse_token("  " + WORD[:40] + "\n\t " + WORD[40:] + "\r\n") == TOKEN


def test_every_truncation_is_malformed() -> None:
    """A token that lacks its end or its beginning is refused, with its code."""
    for cut in range(len(WORD)):
        for text in (WORD[:cut], WORD[cut + 1 :]):
            with pytest.raises(InvalidConfig) as caught:
                parse_token(text)
            assert caught.value.code == "token-malformed"


@given(st.integers(0, len(WORD) - 1), st.characters(codec="utf-8"))
def test_every_altered_character_is_malformed(place: int, letter: str) -> None:
    """A token with any character replaced is refused."""
    text = WORD[:place] + letter + WORD[place + 1 :]
    if letter.isspace() or letter == WORD[place]:
        return
    with pytest.raises(InvalidConfig) as caught:
        parse_token(text)
    assert caught.value.code == "token-malformed"


@pytest.mark.parametrize("name", ["w", "we", "web"])
def test_last_character_counts(name: str) -> None:
    """Each length of token has one right last character, though base64 ignores some of its bits."""
    word = format_token(msgspec.structs.replace(TOKEN, name=name))
    for letter in string.ascii_letters + string.digits + "-_":
        if letter != word[-1]:
            with pytest.raises(InvalidConfig):
                parse_token(word[:-1] + letter)


@given(st.text(max_size=300))
def test_arbitrary_text_is_malformed(text: str) -> None:
    """Arbitrary text raises InvalidConfig and nothing else, with or without the prefix."""
    for candidate in (text, "leitwolf1-" + text):
        with pytest.raises(InvalidConfig):
            parse_token(candidate)


@given(st.binary(max_size=300))
def test_arbitrary_contents_are_malformed(body: bytes) -> None:
    """Arbitrary contents under a right checksum raise InvalidConfig and nothing else."""
    with pytest.raises(InvalidConfig):
        parse_token(wrap(body))


def wrap(body: bytes) -> str:
    data = hashlib.sha256(body).digest()[:6] + body
    return "leitwolf1-" + base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.mark.parametrize(
    "change",
    [
        {0: b"short"},
        {1: ""},
        {1: "n" * 64},
        {2: 0},
        {2: 65536},
        {3: []},
        {3: ["host.example"]},
        {3: ["10.0.0.1"] * 17},
        {4: b"short"},
        {5: b"short"},
    ],
)
def test_fields_outside_their_range_are_malformed(change: dict[int, object]) -> None:
    """Each field is checked, also behind a right checksum."""
    fields: list[object] = [bytes(16), "web", 6474, ["10.0.0.1"], bytes(32), bytes(16)]
    assert parse_token(wrap(msgspec.msgpack.encode(fields))).name == "web"
    for place, value in change.items():
        fields[place] = value
    with pytest.raises(InvalidConfig):
        parse_token(wrap(msgspec.msgpack.encode(fields)))


def test_digest_and_representation_do_not_betray_the_secret() -> None:
    """The digest identifies the secret without showing it, and so does a logged token."""
    secret = new_secret()
    assert len(secret) == 16
    assert secret != new_secret()
    assert digest(secret) == digest(secret)
    assert digest(secret) != digest(new_secret())
    assert secret.hex() not in digest(secret)
    assert str(TOKEN.secret) not in repr(TOKEN)


def test_a_joiner_with_a_wrong_name_is_told_of_the_value() -> None:
    """The name is wrong, not the network."""
    reason = Rejection(code="invalid-name", text="name = 'N 1' is no name", hint="1..63")
    assert join._error_of(reason).exit_code == InvalidConfig.exit_code


def test_a_token_without_quorum_is_refused_as_all_commands_are() -> None:
    """Scripts know by the exit code that it may be asked for again."""
    refusal = Refusal(code="no-quorum", text="no leader", hint="mend it", retryable=True)

    async def refuse(*_: object) -> Answer:
        return Answer(refusal=refusal)

    with pytest.raises(UnavailableError) as raised:
        asyncio.run(new_token(cast("Any", None), 60, "root", refuse))
    assert (raised.value.exit_code, raised.value.code) == (6, "no-quorum")
