"""Real stores on loopback, the witness daemon, and a proxy that breaks what passes through it."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

from leitwolf.witness.vault import Vault

__all__ = [
    "HANG_S",
    "Proxy",
    "Witness",
    "etcd",
    "free_port",
    "moto",
    "s3",
    "wait_for",
    "witness_command",
]

ROOT = Path(__file__).parents[2]
READY_S = HANG_S = 60.0
MOTO = """
import sys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple
class Handler(WSGIRequestHandler):
    timeout = float(sys.argv[3])
application = DomainDispatcherApplication(create_backend_app)
run_simple(sys.argv[1], int(sys.argv[2]), application, threaded=False, request_handler=Handler)
"""
"""One request at a time: moto compares and writes in two steps, and in threads it loses writes.
A client whose power fails within its request says nothing more: the others wait for it."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + READY_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} does not come up"
        time.sleep(0.05)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


def answers(port: int, method: str, path: str, body: bytes = b"") -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, body)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def s3() -> Iterator[int]:
    """Run moto's S3 with an empty bucket ``quorum``; yield its port."""
    port = free_port()
    with moto("127.0.0.1", port, patience_s=READY_S):
        wait_for(lambda: answers(port, "PUT", "/quorum"), "moto")
        yield port


@contextlib.contextmanager
def moto(
    host: str, port: int, enter: Sequence[str] = (), patience_s: float = 1
) -> Iterator[subprocess.Popen[bytes]]:
    """Run moto at an address, which ``enter`` leads to; there is no bucket yet.

    It gives up a client that says nothing for ``patience_s`` within its request.
    """
    server = subprocess.Popen(
        [*enter, sys.executable, "-c", MOTO, host, str(port), str(patience_s)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with ended(server):
        yield server


@contextlib.contextmanager
def etcd(folder: Path, certificate: Path | None = None, key: Path | None = None) -> Iterator[int]:
    """Run one etcd, with TLS if there is a certificate; yield its client port."""
    client, peer = free_port(), free_port()
    scheme = "https" if certificate else "http"
    tls = [f"--cert-file={certificate}", f"--key-file={key}"] if certificate else []
    server = subprocess.Popen(
        [
            "etcd",
            "--name=m",
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls={scheme}://127.0.0.1:{client}",
            f"--advertise-client-urls={scheme}://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=m=http://127.0.0.1:{peer}",
            f"--initial-cluster-token={client}",
            *tls,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with ended(server):
        body = json.dumps({"key": "YQ=="}).encode()
        up = listens if certificate else lambda port: answers(port, "POST", "/v3/kv/range", body)
        wait_for(lambda: up(client), "etcd")
        yield client


def witness_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "leitwolf.cli", "witness", *arguments]


class Witness:
    """``leitwolf witness serve`` as a process.

    Args:
        folder: its state.
        host: address to listen at.
        enter: command prefix by which it gets into the network that has this address.
    """

    def __init__(self, folder: Path, host: str = "127.0.0.1", enter: Sequence[str] = ()) -> None:
        self.folder = folder
        self.port = free_port()
        self._host, self._enter = host, list(enter)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = witness_command(
            "serve", "--listen", f"{self._host}:{self.port}", "--state", str(self.folder)
        )
        with (self.folder.parent / "witness.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._enter, *command],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            )
        if not self._enter:
            wait_for(lambda: listens(self.port), "the witness")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def send(self, number: int) -> None:
        """Send a signal to it: SIGSTOP is a witness that does not answer."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal; return its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        return process.wait(READY_S)

    def token(self, name: str, *, replace: bool = False) -> str:
        vault = Vault(self.folder)
        vault.prepare()
        return str(vault.add_token(name, replace=replace))

    def location(self, name: str) -> str:
        return f"witness://{self._host}:{self.port}/{name}"


class Proxy:
    """Passes HTTP to a port and breaks it as told by ``fault``:

    - ``no-conditions``: strikes conditions out of writes;
    - ``stale``: answers reads with what the last but two brought;
    - ``lose-a-reply``: passes one write on and hangs up instead of answering;
    - ``hang``: accepts and says nothing.

    It listens at ``host`` and ``at``, 0: any port, and passes on to the same host.
    """

    def __init__(self, port: int, fault: str = "", *, host: str = "127.0.0.1", at: int = 0) -> None:
        self.fault = fault
        self.host = host
        self.seen: list[tuple[int, list[tuple[str, str]], bytes]] = []
        self.release = threading.Event()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy.pass_on(self, port)

            def do_PUT(self) -> None:
                proxy.pass_on(self, port)

            def do_POST(self) -> None:
                proxy.pass_on(self, port)

            def do_DELETE(self) -> None:
                proxy.pass_on(self, port)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer((host, at), Handler)
        self.port = int(self.server.server_address[1])
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def pass_on(self, request: http.server.BaseHTTPRequestHandler, port: int) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        headers = dict(request.headers.items())
        write = request.command in {"PUT", "DELETE"} or request.path.endswith(
            ("txn", "deleterange")
        )
        if self.fault == "hang":
            self.release.wait(HANG_S)
            request.close_connection = True
            return
        if self.fault == "no-conditions":
            headers = {k: v for k, v in headers.items() if not k.lower().startswith("if-")}
            if request.path.endswith("txn"):
                body = json.dumps({**json.loads(body), "compare": []}).encode()
                headers["Content-Length"] = str(len(body))
        read = request.command == "GET" or request.path.endswith("range")
        upstream = http.client.HTTPConnection(self.host, port, timeout=30)
        upstream.request(request.command, request.path, body, headers)
        response = upstream.getresponse()
        answer = (response.status, response.getheaders(), response.read())
        upstream.close()
        if write and self.fault == "lose-a-reply":
            self.fault = ""
            request.close_connection = True
            return
        if read and not write and self.fault == "stale":
            self.seen.append(answer)
            answer = self.seen[max(0, len(self.seen) - 3)]
        self._answer(request, *answer)

    def _answer(
        self,
        request: http.server.BaseHTTPRequestHandler,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes,
    ) -> None:
        request.send_response_only(status)
        for name, value in headers:
            if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
