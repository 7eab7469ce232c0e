"""Secrets for witnesses: from the environment, or from a file that only its owner can read.

``witness.ini`` in the configuration directory, mode 0600, a section for each location (without its
options)::

    [s3://bucket/key]
    access_key_id = ...
    secret_access_key = ...

    [etcd://10.0.0.1:2379/leitwolf/office]
    username = ...
    password = ...

    [witness://192.0.2.9:6475/office]
    token = leitwolfw1-...

A location without a section takes the environment: for S3, Azure and Google what their own tools
take (``AWS_ACCESS_KEY_ID`` ...); ``LEITWOLF_ETCD_USERNAME``, ``LEITWOLF_ETCD_PASSWORD``;
``LEITWOLF_WITNESS_TOKEN``.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from pathlib import Path

from leitwolf.model.errors import InvalidConfig
from leitwolf.model.location import Location

__all__ = ["FILE", "load_credentials"]

FILE = "witness.ini"


def load_credentials(location: Location, config_dir: Path | None) -> Mapping[str, str]:
    """Return the section of a location, empty if there is none.

    Raises:
        InvalidConfig: the file can be read by others (code ``credentials-exposed``) or is malformed
            (``credentials-malformed``). Its contents are never part of the text.
    """
    if config_dir is None:
        return {}
    path = config_dir / FILE
    try:
        with path.open(encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            text = file.read()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(
            f"cannot read {path}: {getattr(error, 'strerror', 'it is not UTF-8')}",
            code="credentials-malformed",
        ) from None
    if status.st_mode & 0o077 or status.st_uid not in {0, os.geteuid()}:
        raise InvalidConfig(
            f"{path} belongs to, or can be read by, others than its owner",
            code="credentials-exposed",
            hint=f"chown root: {path} && chmod 600 {path}; then replace what is in it",
        )
    # Values hold any sign; locations have colons, so only '=' divides.
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    try:
        parser.read_string(text)
    except configparser.Error:  # its text shows lines of the file
        raise InvalidConfig(
            f"{path} is not made of sections [LOCATION] with lines NAME = VALUE",
            code="credentials-malformed",
        ) from None
    return dict(parser[location.address]) if parser.has_section(location.address) else {}
