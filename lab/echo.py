"""A server for tests: answers UDP datagrams with themselves and HTTP requests with a name.

``echo.py PORT NAME`` listens on every address, also on ones that come later, until it is killed.
With real-time priority where it may: who waits for the processor looks like an outage to a prober.
"""

from __future__ import annotations

import selectors
import socket
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from lab.realtime import be_punctual


def main() -> None:
    """Serve."""
    be_punctual()
    port, name = int(sys.argv[1]), sys.argv[2].encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(name)
    selector = selectors.DefaultSelector()
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for one in (datagrams, listener):
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        one.bind(("::", port))
        selector.register(one, selectors.EVENT_READ)
    # Answers must come from the address that was asked, not from the interface's first one.
    datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    listener.listen(256)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        for key, _ in selector.select():
            if key.fileobj is datagrams:
                data, ancillary, _, sender = datagrams.recvmsg(2048, 64)
                info = [
                    (level, kind, content[:16] + bytes(4)) for level, kind, content in ancillary
                ]
                try:
                    datagrams.sendmsg([data], info, 0, sender)
                except OSError:
                    continue  # the address has just been taken away
            else:
                connection, _ = listener.accept()
                connection.settimeout(1)
                try:
                    connection.recv(2048)
                    connection.sendall(answer + name)
                except OSError:
                    pass
                finally:
                    connection.close()


if __name__ == "__main__":
    main()
