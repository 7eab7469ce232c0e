"""Bytes as one printable word that tells whether all of it was copied.

A prefix, then base64url of a checksum (first 6 bytes of SHA-256) and the body.
"""

from __future__ import annotations

import base64
import hashlib

__all__ = ["format_word", "parse_word"]

_CHECKSUM_BYTES = 6


def format_word(prefix: str, body: bytes) -> str:
    """Return the body as one word behind ``prefix``."""
    return prefix + _encode(hashlib.sha256(body).digest()[:_CHECKSUM_BYTES] + body)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def parse_word(prefix: str, text: str, characters_max: int) -> bytes:
    """Return the body of a word; white space anywhere in it is ignored.

    Raises:
        ValueError: it is not whole; the text says why.
    """
    if len(text) > characters_max:
        raise ValueError(f"it has {len(text)} characters, at most {characters_max} are right")
    word = "".join(text.split())
    if not word.startswith(prefix):
        raise ValueError(f"it does not begin with '{prefix}'")
    encoded = word[len(prefix) :]
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise ValueError("it has characters that no token has, or lacks some") from error
    if _encode(data) != encoded:  # base64 ignores some bits of its last character
        raise ValueError("its last character is wrong")
    checksum, body = data[:_CHECKSUM_BYTES], data[_CHECKSUM_BYTES:]
    if hashlib.sha256(body).digest()[:_CHECKSUM_BYTES] != checksum:
        raise ValueError("its checksum is wrong, a part is missing or altered")
    return body
