"""TCP sockets of peer streams."""

from __future__ import annotations

import socket

__all__ = ["dialling_socket", "family_of", "listening_socket", "tune"]

# Numbers of linux/in.h and linux/in6.h that the socket module does not name.
_IP_FREEBIND = 15
_IP_BIND_ADDRESS_NO_PORT = 24
_IPV6_FREEBIND = 78
_BACKLOG = 128


def family_of(address: str) -> socket.AddressFamily:
    """Return the address family of a numeric address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _bound(address: str, port: int, *, keep_port: bool) -> socket.socket:
    """Return a socket bound to an address that this machine may or may not have at the moment."""
    family = family_of(address)
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family is socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        if keep_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        made.bind((address, port))
    except BaseException:
        made.close()
        raise
    return made


def listening_socket(address: str, port: int) -> socket.socket:
    """Return a listening socket; the address may come and go.

    Raises:
        OSError: the port is taken.
    """
    listener = _bound(address, port, keep_port=True)
    try:
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def dialling_socket(own: str) -> socket.socket:
    """Return a socket that will call from this own address, so by this link.

    Raises:
        OSError: no socket can be had.
    """
    return _bound(own, 0, keep_port=False)


def tune(connection: socket.socket, silence: float) -> None:
    """Send at once, and give up what the other side does not confirm in time (seconds)."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(silence * 1_000))
