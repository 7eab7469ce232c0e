"""``s3://``, ``gs://``, ``az://``: an object with conditional writes, through obstore.

obstore (10 MiB, the extra ``objectstore``) is imported when a location is opened. It is told to
never repeat a request: a repeated conditional write is refused by what its first copy did, and
would look as if somebody else had written.

An object is 16 random bytes and the value: stores make versions from the content, and the same
content must not get the same version again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from leitwolf.model.errors import InvalidConfig, WitnessError
from leitwolf.model.limits import CAS_BYTES_MAX
from leitwolf.model.location import ObjectLocation
from leitwolf.ports.witness import Versioned

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore, S3Store

__all__ = ["ObjectStoreCas"]

_NONCE_BYTES = 16
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist|ContainerDisabled")
_TEXT_CHARACTERS = 200


class ObjectStoreCas:
    """An object in a bucket.

    Args:
        location: where.
        credentials: by the names that obstore has for them; empty: the environment.
        timeout_s: seconds for one request.
    """

    def __init__(
        self, location: ObjectLocation, credentials: Mapping[str, str], *, timeout_s: float
    ) -> None:
        self._location = location
        self._key = location.key
        self._store = _open(location, credentials, timeout_s)

    def get(self) -> Versioned | None:
        """Return the object; None: the bucket is there and it is not."""
        from obstore import get  # noqa: PLC0415 — an optional extra

        try:
            found = get(self._store, self._key)
            size = found.meta["size"]
            if not _NONCE_BYTES <= size <= CAS_BYTES_MAX + _NONCE_BYTES:
                raise WitnessError(
                    f"{self._location.address} has {size} bytes: an object of something else",
                    code="witness-foreign",
                )
            data = bytes(found.bytes())
        except FileNotFoundError as error:
            if _NO_BUCKET.search(str(error)):
                raise self._error(error) from None
            return None
        except (OSError, _base_error()) as error:
            raise self._error(error) from None
        version = self._version(found.meta)
        return Versioned(data=data[_NONCE_BYTES:], version=version)

    def put(self, data: bytes, expected: str | None) -> str | None:
        """Replace the object if its version still is ``expected``."""
        from obstore import put  # noqa: PLC0415 — an optional extra
        from obstore.exceptions import (  # noqa: PLC0415
            AlreadyExistsError,
            NotModifiedError,
            PreconditionError,
        )

        if len(data) > CAS_BYTES_MAX:
            raise WitnessError(f"{len(data)} bytes, a value has at most {CAS_BYTES_MAX}")
        mode: Any = "create" if expected is None else json.loads(expected)
        body = os.urandom(_NONCE_BYTES) + data
        try:
            # In parts, a write has no condition.
            return self._version(put(self._store, self._key, body, mode=mode, use_multipart=False))
        except (AlreadyExistsError, NotModifiedError, PreconditionError):
            return None
        except FileNotFoundError as error:
            if expected is None or _NO_BUCKET.search(str(error)):
                raise self._error(error) from None
            return None
        except (OSError, _base_error()) as error:
            raise self._error(error) from None

    def remove(self) -> None:
        """Remove the object."""
        from obstore import delete  # noqa: PLC0415 — an optional extra

        try:
            delete(self._store, self._key)
        except FileNotFoundError as error:
            if _NO_BUCKET.search(str(error)):
                raise self._error(error) from None
        except (OSError, _base_error()) as error:
            raise self._error(error) from None

    def close(self) -> None:
        """Connections end with the object."""

    def _version(self, found: Mapping[str, Any]) -> str:
        """Return what names this content; a version of None must not be passed on."""
        names = {name: found[name] for name in ("e_tag", "version") if found.get(name)}
        if not names:
            raise WitnessError(
                f"{self._location.address}: the store gives its objects no versions",
                code="witness-unfit",
            )
        return json.dumps(names, sort_keys=True)

    def _error(self, error: Exception) -> WitnessError:
        """Return an error with the first line of what the store said; the rest may be long."""
        text = str(error).partition("\nDebug source")[0]
        said = re.search(r"<Code>(\w+)</Code>", text)
        denied = isinstance(error, PermissionError) or re.search(r"\b(401|403) ", text)
        missing = isinstance(error, FileNotFoundError)
        line = said[1] if said else " ".join(text.split())[:_TEXT_CHARACTERS]
        return WitnessError(
            f"{self._location.address}: {line}",
            code="witness-denied" if denied or missing else "witness-unreachable",
            hint="make the bucket first; check name, region and endpoint" if missing else "",
        )


def _base_error() -> type[Exception]:
    from obstore.exceptions import BaseError  # noqa: PLC0415 — an optional extra

    return BaseError


def _open(
    location: ObjectLocation, credentials: Mapping[str, str], timeout_s: float
) -> S3Store | GCSStore | AzureStore:
    try:
        from obstore.store import AzureStore, GCSStore, S3Store  # noqa: PLC0415 — optional
    except ImportError:
        raise InvalidConfig(
            f"location {location.address!r}: the package obstore is not installed",
            code="objectstore-missing",
            hint="install it on every node: ./install --objectstore",
            field="location",
        ) from None
    kinds: dict[str, Any] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
    names = {"account": "account_name"}
    config = {names.get(name, name): value for name, value in location.options}
    limit = timedelta(seconds=timeout_s)
    client = {
        "timeout": limit,
        "connect_timeout": limit,
        "allow_http": location.option("endpoint").startswith("http://"),
    }
    try:
        return kinds[location.scheme](  # type: ignore[no-any-return]
            location.bucket,
            config={**config, **credentials},
            client_options=client,
            retry_config={"max_retries": 0, "retry_timeout": limit},
        )
    except (_base_error(), ValueError, TypeError) as error:
        # Values of credentials are not part of what is shown: only the kind of error is.
        raise InvalidConfig(
            f"location {location.address!r}: the store refuses its options or credentials"
            f" ({type(error).__name__})",
            code="objectstore-config",
            hint=f"names given in witness.ini: {', '.join(sorted(credentials)) or 'none'}",
            field="location",
        ) from None
