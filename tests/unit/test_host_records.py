"""What a host must not forget."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from leitwolf.host.permission import Permission, Tenure, may_run
from leitwolf.host.records import Ledger, Record, Records
from leitwolf.model.errors import InvariantError
from leitwolf.model.ids import GroupId, ResourceId, ResourceState
from leitwolf.model.observations import StartResource
from leitwolf.system.clock import now
from leitwolf.wire.ballot import Now
from leitwolf.wire.page import LeasePage
from leitwolf.wire.permit import SLEPT_NS

WEB = GroupId("web")


def record(boot: str = "b1", resource: str = "vip") -> Record:
    order = StartResource(
        resource=ResourceId(resource),
        group=WEB,
        type="process",
        parameters={"command": "sleep 1"},
        lease=3,
        generation=4,
        attempt=1,
    )
    return Record(
        boot=boot,
        order=order,
        state=ResourceState.ONLINE,
        code="started",
        text="",
        memory={"a": "b"},
    )


def test_record_survives_and_goes(tmp_path: Path) -> None:
    """A record is read back by the next host as it was written, until it is removed."""
    records = Records(tmp_path / "host", "b1")
    records.save(record())
    assert Records(tmp_path / "host", "b1").load() == [record()]
    records.remove(ResourceId("vip"))
    assert Records(tmp_path / "host", "b1").load() == []


def test_record_of_another_boot_is_no_record(tmp_path: Path) -> None:
    """What ran before a boot does not run now."""
    Records(tmp_path, "b1").save(record())
    assert Records(tmp_path, "b2").load() == []
    assert list(tmp_path.iterdir()) == []


def test_broken_record_is_not_skipped(tmp_path: Path) -> None:
    """A record that cannot be read means: something may run that nobody knows."""
    records = Records(tmp_path, "b1")
    records.save(record())
    (tmp_path / "vip.json").write_bytes(b"{}")
    with pytest.raises(InvariantError):
        records.load()


@pytest.mark.parametrize("name", ["../x", "", "a/b", "a.b", "x" * 64])
def test_name_that_is_no_name_reaches_no_file(tmp_path: Path, name: str) -> None:
    """Names become file names; nothing outside of the folder can be named."""
    with pytest.raises(InvariantError):
        Records(tmp_path, "b1").save(record(resource=name))


def test_attested_generation_is_never_lowered(tmp_path: Path) -> None:
    """The ledger keeps the highest generation, also for the next host (I11)."""
    ledger = Ledger(tmp_path / "groups", "b1")
    assert ledger.closed(WEB) == 0
    ledger.close(WEB, 5)
    ledger.close(WEB, 3)
    again = Ledger(tmp_path / "groups", "b1")
    assert again.closed(WEB) == 5
    assert again.all() == {"web": 5}
    assert Ledger(tmp_path / "groups", "b2").all() == {}


def test_broken_ledger_is_not_skipped(tmp_path: Path) -> None:
    """Not knowing what was attested is no reason to run it again."""
    (tmp_path / "groups").write_bytes(msgspec.json.encode({"boot": "b1"}))
    with pytest.raises(InvariantError):
        Ledger(tmp_path / "groups", "b1")


def test_only_the_newest_host_is_in_office(tmp_path: Path) -> None:
    """A child that a dead host forked finds another host in office."""
    old, new = Tenure(tmp_path / "office"), Tenure(tmp_path / "office")
    assert not old.lasts()
    old.take()
    assert old.lasts()
    new.take()
    assert (old.lasts(), new.lasts()) == (False, True)


class OnePage:
    """A reader of a page that permits lease 7."""

    def read(self) -> LeasePage:
        instant = now()
        return LeasePage(
            lease=7,
            lease_end=instant.raw + 10**12,
            gate=True,
            configured=True,
            progress=instant.raw,
            heartbeat=10**12,
            drift=instant.boot - instant.raw,
        )


def test_replaced_host_starts_nothing(tmp_path: Path) -> None:
    """What a dead host forked asks for its permission when another host is in office: refused."""
    tenure = Tenure(tmp_path / "office")
    tenure.take()
    permission = Permission(OnePage(), tenure)  # type: ignore[arg-type]
    assert (permission.start(7), permission.run(7)) == ("", "")
    assert permission.start(8) == "other-lease"
    Tenure(tmp_path / "office").take()
    assert permission.start(7) == "host-replaced"


PAGE = LeasePage(lease=7, lease_end=1_000_000_000, gate=True, drift=50)


@pytest.mark.parametrize(
    ("page", "raw", "drift", "reason"),
    [
        (PAGE, 999_999_999, 50, ""),
        (None, 1, 50, "no-page"),
        (LeasePage(lease=8, lease_end=1_000_000_000, gate=True), 1, 0, "other-lease"),
        (LeasePage(lease=7, lease_end=1_000_000_000, gate=False), 1, 0, "gate-closed"),
        (PAGE, 1_000_000_000, 50, "lease-ended"),
        (PAGE, 1, 50 + SLEPT_NS, ""),
        (PAGE, 1, 50 + SLEPT_NS + 1, "slept"),
        (PAGE, 1, 50 - SLEPT_NS - 1, "slept"),
    ],
)
def test_what_runs_may_go_on_only_under_its_lease(
    page: LeasePage | None, raw: int, drift: int, reason: str
) -> None:
    """Each condition of the lease is needed, and its edge belongs to the safe side."""
    assert may_run(page, Now(raw, raw + drift), 7) == reason
