"""What daemons tell the system log: a line of JSON each, on standard error."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

__all__ = ["Diary", "log"]


class Diary:
    """Writes lines with what happened (``event``), how bad that is, when, and any fields."""

    def info(self, event: str, **fields: object) -> None:
        """Tell what is as it should be."""
        self._write(event, "info", fields)

    def warning(self, event: str, **fields: object) -> None:
        """Tell what somebody should look at."""
        self._write(event, "warning", fields)

    def critical(self, event: str, **fields: object) -> None:
        """Tell why this process does not do its work."""
        self._write(event, "critical", fields)

    @staticmethod
    def _write(event: str, level: str, fields: dict[str, object]) -> None:
        when = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        line = {**fields, "event": event, "level": level, "timestamp": when}
        sys.stderr.write(json.dumps(line, default=str, separators=(",", ":")) + "\n")
        sys.stderr.flush()


log = Diary()
