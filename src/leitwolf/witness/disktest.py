"""Is a file fit to be a shared disk? Asked before it votes, on a scratch file beside it.

Two processes open it as two nodes would: past all caches, with the lock of a node's block. What
one wrote the other must read at once, and the lock of one must keep the other out. The mount must
be one that other machines see.

What this does not guarantee: that another machine sees the same. Every node looks by itself whether
it finds the disk there (``leitwolf quorum status``).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from leitwolf.model.errors import WitnessError
from leitwolf.witness.device import DirectFile
from leitwolf.witness.layout import UNIT_BYTES
from leitwolf.witness.mounts import check_mount, find_mount
from leitwolf.witness.selftest import Check, SelfTestReport

__all__ = ["main", "try_file"]

_PACKAGE = Path(__file__).parents[2]
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    " from leitwolf.witness.disktest import main; main(sys.argv[2])"
)
_UNITS = 16
_ROUNDS = 8
_END_S = 2.0


class _OtherProcess:
    """The scratch file in the hands of another process; a line asks, a line answers."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _PROGRAM, str(_PACKAGE), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self, offset: int) -> bytes:
        return bytes.fromhex(self._ask(f"read {offset}"))

    def write(self, offset: int, data: bytes) -> None:
        self._ask(f"write {offset} {data.hex()}")

    def claim(self, offset: int) -> bool:
        return self._ask(f"claim {offset}") == "yes"

    def close(self) -> None:
        stdin, stdout = self._pipes()
        with contextlib.suppress(OSError):
            stdin.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # one that hangs in the kernel ends when the mount comes back
        stdout.close()

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise WitnessError("the second process has no pipes")
        return stdin, stdout

    def _ask(self, line: str) -> str:
        stdin, stdout = self._pipes()
        try:
            stdin.write(line + "\n")
            stdin.flush()
            status, _, answer = stdout.readline().strip().partition(" ")
        except OSError as error:
            raise WitnessError(f"the second process of the self-test ended: {error}") from error
        if status != "ok":
            raise WitnessError(answer or "the second process of the self-test ended")
        return answer


def main(path: str) -> None:
    """Answer requests until stdin ends."""
    device = DirectFile(Path(path))
    for line in sys.stdin:
        try:
            answer = _answer(device, line.split())
        except WitnessError as error:
            answer = f"failed {error.text}"
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


def _answer(device: DirectFile, words: list[str]) -> str:
    offset = int(words[1])
    if words[0] == "read":
        return f"ok {device.read(offset, UNIT_BYTES).hex()}"
    if words[0] == "write":
        device.write(offset, bytes.fromhex(words[2]))
        return "ok"
    return "ok yes" if _claims(device, offset) else "ok no"


def _claims(device: DirectFile, offset: int) -> bool:
    try:
        device.claim("", 1, offset, lambda: None)
    except WitnessError as error:
        if error.code == "witness-denied":
            return False
        raise
    return True


def try_file(path: Path, *, local: bool) -> SelfTestReport:
    """Try the place of a file, with a scratch file beside it.

    Args:
        path: of the file that is to be the shared disk.
        local: a file system of one machine is allowed.

    Raises:
        WitnessError: ``witness-unfit``, the mount cannot be relied on; else nothing can be made
            there.
    """
    scratch = path.with_name(f".{path.name}.selftest-{os.urandom(8).hex()}")
    with _scratch(scratch, local=local), contextlib.ExitStack() as stack:
        first = DirectFile(scratch)
        stack.callback(first.close)
        second = _OtherProcess(scratch)
        stack.callback(second.close)
        checks: list[Check] = []
        for name, wrong, right in (
            ("fresh reads", _fresh(first, second), "each process reads at once what either wrote"),
            ("locks", _locked(first, second), "the lock of one process keeps the other out"),
        ):
            checks.append(Check(name=name, ok=not wrong, found=wrong or right))
        return SelfTestReport(ok=all(check.ok for check in checks), checks=tuple(checks))


@contextlib.contextmanager
def _scratch(path: Path, *, local: bool) -> Iterator[None]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            mount = find_mount(descriptor)
            os.posix_fallocate(descriptor, 0, _UNITS * UNIT_BYTES)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise WitnessError(
            f"cannot make {path} for the self-test: {error.strerror}", code="witness-denied"
        ) from error
    try:
        if mount is not None:
            check_mount(mount, str(path.parent), local=local, laboratory="--local")
        yield
    finally:
        path.unlink(missing_ok=True)


def _fresh(first: DirectFile, second: _OtherProcess) -> str:
    """Return what is wrong with reads, '': nothing."""
    for number in range(_ROUNDS):
        offset, data = number * UNIT_BYTES, os.urandom(UNIT_BYTES)
        if number % 2:
            second.write(offset, data)
            seen = first.read(offset, UNIT_BYTES)
        else:
            first.write(offset, data)
            seen = second.read(offset)
        if seen != data:
            return "another process reads an old value: reads are stale"
    return ""


def _locked(first: DirectFile, second: _OtherProcess) -> str:
    """Return what is wrong with locks, '': nothing."""
    if not _claims(first, 0):
        return "a lock that nobody holds is refused"
    if second.claim(0):
        return "two processes hold the lock of one block"
    if not second.claim(UNIT_BYTES):
        return "the lock of one block keeps others from their own"
    return ""
