"""``leitwolf witness serve``: one process that keeps a value for each of many clusters.

It decides nothing: it compares versions and writes. It needs no root, no cluster, no clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
from collections import Counter
from pathlib import Path

from leitwolf.model.errors import (
    InvalidConfig,
    LogCorrupt,
    NotPermitted,
    StorageError,
    SyncFailed,
)
from leitwolf.model.location import Endpoint
from leitwolf.peers.identity import fingerprint_of_pem
from leitwolf.system.diary import log
from leitwolf.system.notify import Notifier
from leitwolf.witness.speech import (
    FRAME_BYTES_MAX,
    HELLO_BYTES_MAX,
    LENGTH_BYTES,
    PROTOCOL,
    Ask,
    Code,
    Hello,
    Kind,
    Reply,
    decode,
    frame,
    length_of,
)
from leitwolf.witness.vault import Vault

__all__ = ["WitnessServer", "run"]


_GREETING_S = 5.0
"""For the handshake, and again for the greeting: who says nothing is dropped."""
_IDLE_S = 600.0
_CALLERS_MAX = 1_024
_CALLERS_OF_ADDRESS_MAX = 128
_CLUSTER_CALLERS_MAX = 256
_UNSAFE_EXIT = 8
"""Exit code of storage errors: systemd starts the witness again."""


class WitnessServer:
    """Answers callers; see :mod:`leitwolf.witness.speech` for what is said.

    Args:
        vault: prepared and occupied.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._addresses: Counter[str] = Counter()
        self._names: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self._callers: set[asyncio.Task[None]] = set()

    async def start(self, listen: Endpoint) -> int:
        """Listen.

        Returns:
            The port, which matters if it was given as 0.

        Raises:
            InvalidConfig: the address cannot be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        context.load_cert_chain(self._vault.certificate, self._vault.key)
        try:
            self._server = await asyncio.start_server(
                self._call, listen.host, listen.port, ssl=context, ssl_handshake_timeout=_GREETING_S
            )
        except OSError as error:
            raise InvalidConfig(
                f"cannot listen at {listen}: {error.strerror}",
                hint="an address of this machine and a free port: --listen ADDRESS:PORT",
                field="listen",
            ) from error
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Take no more calls, finish the writes that were begun, hang up."""
        if self._server is not None:
            self._server.close()
        for task in self._callers:
            task.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)

    async def _call(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        address = str(writer.get_extra_info("peername", ("",))[0])
        full = len(self._callers) >= _CALLERS_MAX
        if task is None or full or self._addresses[address] >= _CALLERS_OF_ADDRESS_MAX:
            writer.transport.abort()
            return
        self._callers.add(task)
        self._addresses[address] += 1
        try:
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._talk(reader, writer, address)
        except (OSError, EOFError, TimeoutError):
            pass  # the caller hung up, or says nothing
        except ValueError as error:
            log.warning("a caller breaks the protocol", address=address, error=str(error))
        finally:
            self._callers.discard(task)
            self._addresses[address] -= 1
            self._addresses += Counter()  # drops the zeros
            writer.transport.abort()

    async def _talk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str
    ) -> None:
        hello = decode(await _read(reader, HELLO_BYTES_MAX, _GREETING_S), Hello)
        reply = await self._greet(hello, address)
        await _write(writer, reply)
        if reply.code is not Code.OK:
            return
        self._names[hello.name] += 1
        try:
            while True:
                ask = decode(await _read(reader, FRAME_BYTES_MAX, _IDLE_S), Ask)
                await _write(writer, await asyncio.to_thread(self._answer, hello, ask))
        finally:
            self._names[hello.name] -= 1
            self._names += Counter()

    async def _greet(self, hello: Hello, address: str) -> Reply:
        if hello.protocol != PROTOCOL:
            text = f"this witness speaks version {PROTOCOL}"
            return Reply(code=Code.PROTOCOL, text=text)
        try:
            admitted = await asyncio.to_thread(self._vault.admits, hello.name, hello.secret)
        except (OSError, ValueError) as error:
            log.critical("tokens cannot be read", name=hello.name[:80], error=str(error))
            return Reply(code=Code.FAILED, text=f"tokens cannot be read: {error}")
        if not admitted:
            log.warning("a caller is denied", address=address, name=hello.name[:80])
            text = "no such token: leitwolf witness token NAME, on the witness"
            return Reply(code=Code.DENIED, text=text)
        if self._names[hello.name] >= _CLUSTER_CALLERS_MAX:
            return Reply(code=Code.DENIED, text="too many connections of this cluster")
        return Reply(code=Code.OK)

    def _answer(self, hello: Hello, ask: Ask) -> Reply:
        """Do what is asked; in a thread, since the disk may be slow."""
        try:
            if ask.kind is Kind.PUT:
                version = self._vault.put(hello.name, hello.scratch, ask.data, ask.expected)
                if version is None:
                    return Reply(code=Code.CONFLICT)
                return Reply(code=Code.OK, version=version)
            if ask.kind is Kind.REMOVE:
                self._vault.remove(hello.name, hello.scratch)
                return Reply(code=Code.NONE)
            found = self._vault.get(hello.name, hello.scratch)
            if found is None:
                return Reply(code=Code.NONE)
            return Reply(code=Code.OK, version=found.version, data=found.data)
        except SyncFailed as error:
            log.critical("the witness ends: what is durable is unknown", error=error.text)
            os._exit(_UNSAFE_EXIT)
        except LogCorrupt as error:
            log.critical("a value is damaged", name=hello.name, error=error.text, hint=error.hint)
            return Reply(code=Code.DAMAGED, text=error.text)
        except (StorageError, OSError) as error:
            log.critical("the disk refuses", name=hello.name, error=str(error))
            return Reply(code=Code.FAILED, text=str(error))


async def _read(reader: asyncio.StreamReader, most: int, limit_s: float) -> bytes:
    async with asyncio.timeout(limit_s):
        length = length_of(await reader.readexactly(LENGTH_BYTES), most)
    async with asyncio.timeout(_GREETING_S):  # the rest of a frame comes at once
        return await reader.readexactly(length)


async def _write(writer: asyncio.StreamWriter, reply: Reply) -> None:
    writer.write(frame(reply))
    async with asyncio.timeout(_GREETING_S):
        await writer.drain()


async def _serve(vault: Vault, listen: Endpoint, notifier: Notifier) -> None:
    server = WitnessServer(vault)
    port = await server.start(listen)
    fingerprint = fingerprint_of_pem(vault.certificate.read_bytes())
    log.info("serving", listen=listen.host, port=port, fingerprint=fingerprint)
    notifier.ready(f"port {port}")
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    pause_s = notifier.watchdog_ms / 2_000 or None
    while not stopping.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await stopping.wait()
        notifier.watchdog()
    notifier.stopping()
    await server.stop()


def run(folder: Path, listen: Endpoint) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        InvalidConfig: the address cannot be used.
        Conflict: another process serves this folder.
        NotPermitted: the folder cannot be used.
        StorageError: a value is damaged, or fsync fails.
    """
    vault = Vault(folder)
    vault.prepare()
    try:
        vault.occupy()
        asyncio.run(_serve(vault, listen, Notifier(os.environ)))
    except OSError as error:
        raise NotPermitted(f"cannot use {folder}: {error.strerror}") from error
    finally:
        vault.close()
