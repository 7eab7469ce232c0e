"""What ``init`` and ``join`` must refuse: each refusal names its field and says what to do."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from leitwolf.cli.cluster import setup_text
from leitwolf.daemon.admission import _rejection
from leitwolf.daemon.forming import best_profile, verify_profile
from leitwolf.model.commands import Refusal
from leitwolf.model.errors import InvalidConfig
from leitwolf.model.networks import choose_networks
from leitwolf.model.views import ClusterSetup
from leitwolf.peers.frames import Code
from leitwolf.system.interfaces import InterfaceAddress
from leitwolf.system.progress import Flag, Slot

MS = 1_000_000


@pytest.mark.parametrize(
    ("profile", "realtime", "stall_ms", "said", "hint"),
    [
        ("default", False, 0, "worst stall 400", "run as root, or use the profile virtual"),
        ("default", True, 300.5, "worst stall 301", "use the profile virtual"),
        ("fast", True, 300, "profile fast: P = ", "use the profile virtual"),
        ("default", True, 0, "", ""),
        ("virtual", False, 0, "", ""),
    ],
)
def test_a_profile_that_the_machine_cannot_hold_is_refused(
    profile: str, realtime: bool, stall_ms: float, said: str, hint: str
) -> None:
    """By what its guard measured: scheduling and worst stall, which the refusal names."""
    flags = Flag.REALTIME if realtime else Flag(0)
    guard = Slot(flags=flags, extra=int(stall_ms * MS))
    if not said:
        verify_profile(profile, guard)
        return
    with pytest.raises(InvalidConfig) as caught:
        verify_profile(profile, guard)
    error = caught.value
    assert (error.code, error.field, error.hint) == ("invalid-config", "profile", hint)
    assert said in error.text


def test_a_profile_that_there_is_not_is_refused_by_name() -> None:
    """The possible ones are told."""
    with pytest.raises(InvalidConfig) as caught:
        verify_profile("slow", Slot())
    assert caught.value.field == "profile"
    assert caught.value.text.startswith("profile = 'slow', possible are fast, default")


@pytest.mark.parametrize(
    ("realtime", "stall_ms", "chosen", "why"),
    [
        (True, 0, "default", ""),
        (True, 55, "virtual", "worst stall 55"),
        (False, 0, "virtual", "worst stall 400"),
    ],
)
def test_who_names_no_profile_gets_one_that_the_machine_holds(
    realtime: bool, stall_ms: int, chosen: str, why: str
) -> None:
    """Real time alone does not tell: a machine that stalls is refused what it did not ask for."""
    flags = Flag.REALTIME if realtime else Flag(0)
    profile, reason = best_profile(Slot(flags=flags, extra=stall_ms * MS))
    assert profile == chosen
    assert why in reason
    assert bool(why) == bool(reason)


def test_it_is_told_why_no_shorter_profile_was_taken() -> None:
    """One line, where there is a reason."""
    setup = ClusterSetup(
        cluster="lab", uuid="u", node="n1", node_id=1, profile="virtual", networks={}, advice=""
    )
    assert "shorter" not in setup_text(setup)
    told = setup_text(replace(setup, profile_reason="worst stall 55")).splitlines()
    assert "not a shorter one: worst stall 55" in told


def address(interface: str, ip: str, subnet: str) -> InterfaceAddress:
    return InterfaceAddress(interface, ip, subnet, 0)


ETH0 = address("eth0", "192.0.2.1", "192.0.2.0/24")
ETH1 = address("eth1", "2001:db8::1", "2001:db8::/64")
BOTH = "eth0 (192.0.2.0/24); eth1 (2001:db8::/64)"


@pytest.mark.parametrize(
    ("there", "interconnect", "client", "field", "said", "hint"),
    [
        ((), (), (), "interconnect", "besides loopback", "ip address add"),
        ((ETH0, ETH1), ("eth7",), (), "interconnect", "'eth7' is neither", BOTH),
        ((ETH0, ETH1), ("eth0",), ("x y",), "client", "'x y' is neither", BOTH),
        ((ETH0, ETH1), ("10.0.0.0/8",), (), "interconnect", "no address in it", BOTH),
        ((ETH0, ETH1), (), ("2001:db8:1::/64",), "client", "no address in it", BOTH),
    ],
    ids=["none", "no-name", "rubbish", "outside", "outside6"],
)
def test_networks_that_are_not_there_are_refused(
    there: tuple[InterfaceAddress, ...],
    interconnect: tuple[str, ...],
    client: tuple[str, ...],
    field: str,
    said: str,
    hint: str,
) -> None:
    """The hint lists what can be named."""
    with pytest.raises(InvalidConfig) as caught:
        choose_networks(list(there), interconnect, client)
    error = caught.value
    assert (error.code, error.field) == ("invalid-config", field)
    assert said in error.text
    assert error.hint.endswith(hint)


def test_networks_are_named_by_interface_or_subnet() -> None:
    """Each in the roles for which it was named; nothing named: all carry both."""
    found = choose_networks([ETH0, ETH1], ("192.0.2.0/24",), ("eth1",))
    assert [(one.name, one.subnets) for one in found] == [
        ("interconnect", (ETH0.subnet,)),
        ("client", (ETH1.subnet,)),
    ]
    found = choose_networks([ETH0, ETH1], (), ())
    assert [(one.name, one.subnets) for one in found] == [
        ("lan", (ETH0.subnet,)),
        ("lan2", (ETH1.subnet,)),
    ]


@pytest.mark.parametrize(
    ("refusal", "code", "hint"),
    [
        (
            Refusal(code="node-exists", text="t", hint="its own", field="addresses"),
            Code.ADDRESS_TAKEN,
            "its own",
        ),
        (
            Refusal(code="node-exists", text="t", hint="another", field="name"),
            Code.NAME_TAKEN,
            "another; if it is that node and lost its storage: leitwolf join TOKEN --replace",
        ),
        (Refusal(code="node-exists", text="t", hint="h", field="uuid"), "node-exists", "h"),
        (Refusal(code="token-unknown", text="t", hint="h"), Code.TOKEN_USED, "h"),
        (Refusal(code="anything", text="t", hint="h", retryable=True), Code.NO_QUORUM, "h"),
        (Refusal(code="too-many-nodes", text="t", hint="h"), "too-many-nodes", "h"),
    ],
    ids=["address", "name", "uuid", "token", "later", "other"],
)
def test_policy_is_told_to_joiners_in_the_words_of_a_join(
    refusal: Refusal, code: str, hint: str
) -> None:
    """Code, text and hint of the refusal are what the operator of the joiner reads."""
    told = _rejection(refusal)
    assert (told.code, told.text, told.hint) == (code, "t", hint)
