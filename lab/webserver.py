"""The web server of the demo: ``webserver.py PORT`` answers every request with its node's name.

One thread and no library for HTTP: it starts at once, and hundreds of requests a second take no
time from the cluster that is shown beside it.
"""

from __future__ import annotations

import selectors
import socket
import sys

_REQUEST_BYTES_MAX = 4096


def _listen(port: int) -> socket.socket:
    """Listen on IPv4 and IPv6."""
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", port))
    listener.listen(256)
    listener.setblocking(False)
    return listener


def _answer(connection: socket.socket, answer: bytes) -> None:
    """Answer what was asked, in one piece; who asks in more is not served."""
    try:
        if connection.recv(_REQUEST_BYTES_MAX).endswith(b"\r\n\r\n"):
            connection.send(answer)
    except OSError:
        return  # the client has left


def main() -> None:
    """Serve until killed."""
    body = f"hello from {socket.gethostname()}\n"
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    answer = (head + body).encode()
    listener, selector = _listen(int(sys.argv[1])), selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    continue  # the client has left
                connection.setblocking(False)
                selector.register(connection, selectors.EVENT_READ, connection)
            else:
                selector.unregister(key.fileobj)
                _answer(key.data, answer)
                key.data.close()


if __name__ == "__main__":
    main()
