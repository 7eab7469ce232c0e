"""One iSCSI session by libiscsi (Debian package libiscsi7), bound with ctypes.

A session is used by one thread. It never reconnects by itself: libiscsi would repeat commands that
were on their way, and a repeated write may overtake a newer one.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import NamedTuple

from leitwolf.model.errors import WitnessError

__all__ = ["CHECK_CONDITION", "GOOD", "RESERVATION_CONFLICT", "UNIT_ATTENTION", "Reply", "Session"]

GOOD = 0
CHECK_CONDITION = 0x02
RESERVATION_CONFLICT = 0x18
UNIT_ATTENTION = 0x06
"""Sense key: something changed at the target; the command was not done."""

_LIBRARY = "libiscsi.so.7"
_SESSION_NORMAL = 2
_READ, _WRITE = 1, 2
_LAST_STATUS = 0xFF
"""SCSI has no higher status; libiscsi's own (cancelled, error, timeout) lie above."""
_ENTERPRISE = 0xFEED
"""Only for the session id: the same node always has the same, see :class:`Session`."""


class Reply(NamedTuple):
    """Status of a SCSI command, its sense key (0: none), and the data that came back."""

    status: int
    sense: int
    data: bytes


class _Data(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("data", ctypes.c_char_p))


class _Task(ctypes.Structure):
    """The beginning of struct scsi_task."""

    _fields_ = (
        ("status", ctypes.c_int),
        ("cdb_size", ctypes.c_int),
        ("direction", ctypes.c_int),
        ("transfer_bytes", ctypes.c_int),
        ("cdb", ctypes.c_ubyte * 16),
        ("residual_status", ctypes.c_int),
        ("residual", ctypes.c_size_t),
        ("sense_type", ctypes.c_ubyte),
        ("sense_key", ctypes.c_int),
    )


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise WitnessError(
            f"{_LIBRARY} is missing: iscsi:// disks cannot be used",
            code="witness-unfit",
            hint="apt-get install libiscsi7",
        ) from error
    pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    for name, result, arguments in (
        ("iscsi_create_context", pointer, [text]),
        ("iscsi_destroy_context", number, [pointer]),
        ("iscsi_set_targetname", number, [pointer, text]),
        ("iscsi_set_session_type", number, [pointer, number]),
        ("iscsi_set_timeout", number, [pointer, number]),
        ("iscsi_set_noautoreconnect", None, [pointer, number]),
        ("iscsi_set_isid_en", number, [pointer, ctypes.c_uint32, ctypes.c_uint32]),
        ("iscsi_full_connect_sync", number, [pointer, text, number]),
        ("iscsi_get_error", text, [pointer]),
        ("iscsi_logout_sync", number, [pointer]),
        ("scsi_create_task", pointer, [number, text, number, number]),
        ("scsi_free_scsi_task", None, [pointer]),
        ("scsi_task_add_data_in_buffer", number, [pointer, number, pointer]),
        ("iscsi_scsi_command_sync", pointer, [pointer, number, pointer, ctypes.POINTER(_Data)]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Session:
    """A session of one initiator with one LUN.

    Initiator name and session id (ISID) follow from the node, so a new session of the same node
    reinstates the old one: the target ends the old one's commands before it lets the new one in
    (RFC 7143, 6.3.5), and no write of it comes later.
    """

    def __init__(
        self, portal: str, target: str, lun: int, *, initiator: str, qualifier: int, timeout_s: int
    ) -> None:
        """Connect and log in.

        Args:
            portal: host:port.
            target: its name.
            lun: number.
            initiator: own name (iqn...).
            qualifier: of the session id, 0..65535.
            timeout_s: of one command, whole seconds, 1 and up.

        Raises:
            WitnessError: ``witness-unreachable``; ``witness-unfit`` without the library.
        """
        self._library = _library()
        self._lun = lun
        self._context = self._library.iscsi_create_context(initiator.encode())
        if not self._context:
            raise WitnessError("libiscsi gave no session", code="witness-unreachable")
        self._library.iscsi_set_noautoreconnect(self._context, 1)
        self._library.iscsi_set_targetname(self._context, target.encode())
        self._library.iscsi_set_session_type(self._context, _SESSION_NORMAL)
        self._library.iscsi_set_isid_en(self._context, _ENTERPRISE, qualifier)
        self._library.iscsi_set_timeout(self._context, timeout_s)
        portal_bytes = portal.encode()
        if self._library.iscsi_full_connect_sync(self._context, portal_bytes, lun):
            text = self._error()
            self._destroy()
            raise WitnessError(
                f"cannot log in to {target} at {portal}: {text}", code="witness-unreachable"
            )

    def _error(self) -> str:
        text = self._library.iscsi_get_error(self._context) or b""
        return bytes(text).decode(errors="replace").strip() or "no answer"

    def command(self, cdb: bytes, *, out: bytes = b"", room: int = 0) -> Reply:
        """Have one SCSI command done.

        Args:
            cdb: the command.
            out: data to the target.
            room: length of the data from it.

        Raises:
            WitnessError: ``witness-unreachable``, it may have been done; the session is over.
        """
        direction = _WRITE if out else _READ if room else 0
        task = self._library.scsi_create_task(len(cdb), cdb, direction, len(out) or room)
        if not task:
            raise WitnessError("libiscsi gave no task", code="witness-unreachable")
        back = ctypes.create_string_buffer(room) if room else None
        if back is not None:
            self._library.scsi_task_add_data_in_buffer(task, room, back)
        data = ctypes.byref(_Data(len(out), out)) if out else None
        done = self._library.iscsi_scsi_command_sync(self._context, self._lun, task, data)
        if not done:  # the library keeps the task until the session is destroyed
            raise WitnessError(f"iSCSI: {self._error()}", code="witness-unreachable")
        result = _Task.from_address(done)
        status, sense = int(result.status), int(result.sense_key)
        self._library.scsi_free_scsi_task(done)
        if status > _LAST_STATUS:
            raise WitnessError(f"iSCSI: {self._error()}", code="witness-unreachable")
        return Reply(
            status, sense if status == CHECK_CONDITION else 0, back.raw if back is not None else b""
        )

    def close(self, *, logout: bool) -> None:
        """End the session; ``logout`` tells the target, which may take up to the time limit."""
        if self._context:
            if logout:
                self._library.iscsi_logout_sync(self._context)
            self._destroy()

    def _destroy(self) -> None:
        self._library.iscsi_destroy_context(self._context)
        self._context = None
