"""Locations of witnesses: what is read, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leitwolf.model.errors import InvalidConfig
from leitwolf.model.location import (
    FORMS,
    Endpoint,
    EtcdLocation,
    ObjectLocation,
    ShareLocation,
    WitnessLocation,
    parse_listen,
    parse_location,
)

GOOD = (
    "share:/mnt/quorum/office",
    "share:/mnt/quorum/office?local=yes",
    "s3://bucket/key/deeper?endpoint=https://s3.example.org:9000&region=eu-central-1",
    "gs://bucket/key",
    "az://container/key?account=name",
    "etcd://10.0.0.1:2379,etcd2.example.org:2379,[2001:db8::1]:2379/leitwolf/office",
    "etcd://10.0.0.1:2379/office?ca=/etc/ssl/etcd.pem&tls=yes",
    "witness://192.0.2.9:6475/7a2f0e7e-0000-4000-8000-000000000000",
    "witness://[2001:db8::9]:6475/office",
)
BAD = (
    ("", "begins with none of"),
    ("http://host/key", "begins with none of"),
    ("/mnt/file", "begins with none of"),
    ("share:mnt/file", "no plain absolute path"),
    ("share:///mnt/file", "no plain absolute path"),
    ("share:/mnt/../file", "not a file in a folder"),
    ("share:/file", "not a file in a folder"),
    ("share:/mnt/file/", "no plain absolute path"),
    ("share:/mnt/file?local=maybe", "neither yes nor no"),
    ("share:/mnt/file?mode=0600", "has no option 'mode'"),
    ("share:/mnt/a file", "spaces"),
    ("s3:bucket/key", "not followed by"),
    ("s3://bucket", "key ''"),
    ("s3://B/key", "bucket 'B'"),
    ("s3://bucket/key?endpoint=ftp://host", "endpoint"),
    ("s3://bucket/key?region=a&region=b", "given twice"),
    ("s3://bucket/key?secret_access_key=x", "has no option"),
    ("s3://bucket/../key?region", "not NAME=VALUE"),
    ("etcd://host/key", "not HOST:PORT"),
    ("etcd://host:0/key", "port '0'"),
    ("etcd://host:65536/key", "port '65536'"),
    ("etcd://host:1,host:1/key", "different endpoints"),
    ("etcd://host:1/key?ca=/a", "tls=yes only"),
    ("etcd://host:1/", "key ''"),
    ("etcd://user:word@host:1/key", "not HOST:PORT"),
    ("witness://host:1,other:1/name", "2 endpoints"),
    ("witness://host:1/a/b", "name 'a/b'"),
    ("witness://host:1/", "name ''"),
    ("s3://bucket/" + "k" * 1_100, "characters"),
)


@pytest.mark.parametrize("text", GOOD)
def test_a_location_is_read_and_written_alike(text: str) -> None:
    """What is read is written as it was; a scratch value beside it is another value."""
    location = parse_location(text)
    assert str(location) == text
    assert parse_location(str(location)) == location
    assert location.beside("selftest-1") != location
    assert location.beside("selftest-1").options == location.options
    assert "?" not in location.address


def test_parts_of_locations() -> None:
    """Every part is where it belongs."""
    assert parse_location(GOOD[1]) == ShareLocation(
        path="/mnt/quorum/office", options=(("local", "yes"),)
    )
    s3 = parse_location(GOOD[2])
    assert isinstance(s3, ObjectLocation)
    assert (s3.scheme, s3.bucket, s3.key) == ("s3", "bucket", "key/deeper")
    assert s3.option("endpoint") == "https://s3.example.org:9000"
    etcd = parse_location(GOOD[5])
    assert isinstance(etcd, EtcdLocation)
    assert etcd.endpoints[2] == Endpoint("2001:db8::1", 2379)
    assert not etcd.tls
    witness = parse_location(GOOD[8])
    assert witness == WitnessLocation(endpoint=Endpoint("2001:db8::9", 6475), name="office")


@pytest.mark.parametrize(("text", "why"), BAD)
def test_a_malformed_location_is_refused(text: str, why: str) -> None:
    """The error names field, value, what is wrong, and the allowed forms."""
    with pytest.raises(InvalidConfig) as caught:
        parse_location(text)
    assert why in caught.value.text
    assert repr(text[:100]) in caught.value.text
    assert caught.value.field == "location"
    assert all(form in caught.value.hint for form in FORMS)


@given(st.text(max_size=60) | st.from_regex(r"(share|s3|etcd|witness):[ -~]{0,40}"))
def test_no_text_breaks_the_parser(text: str) -> None:
    """Whatever is given is a location or a refusal, never another error."""
    try:
        location = parse_location(text)
    except InvalidConfig:
        return
    assert parse_location(str(location)) == location


@pytest.mark.parametrize("text", ["6475", "host:", ":6475", "host:99999", "::1:6475", "a b:1"])
def test_a_malformed_listening_address_is_refused(text: str) -> None:
    """The error says what is right."""
    with pytest.raises(InvalidConfig) as caught:
        parse_listen(text)
    assert caught.value.field == "listen"


def test_listening_addresses() -> None:
    """IPv6 in brackets; port 0 is any."""
    assert parse_listen("[::]:6475") == Endpoint("::", 6475)
    assert parse_listen("127.0.0.1:0") == Endpoint("127.0.0.1", 0)
