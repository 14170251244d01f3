"""Log lines of the tree's processes, told to whoever controls them.

The tree may outlive the control server that started it, and with it the terminal or pipe that was its
standard error: a write there could fail, or never return. So lines travel as messages: from a worker to the
supervisor, from there to the control server, which logs them as its own. While there is none, the
supervisor keeps the newest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

MAX_KEPT_LINES = 500
"""Lines that the supervisor keeps while no control server is there."""
MAX_WAITING = 1000
"""Packets that may wait for a slow receiver before lines are left out."""

_formatter = logging.Formatter("%(message)s")


class _Teller(logging.Handler):
    """Turns records into messages."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Send it."""
        try:
            self._tell(
                {
                    "event": "log",
                    "name": record.name,
                    "level": record.levelno,
                    "text": _formatter.format(record),
                    "created": record.created,
                    "process": record.process,
                }
            )
        except Exception:  # noqa: BLE001 - as every handler does: a log line never ends a program
            self.handleError(record)


def log_to(tell: Callable[[dict[str, Any]], None]) -> None:
    """Give all of this process's log lines to `tell`, and to nobody else."""
    logging.getLogger().handlers[:] = [_Teller(tell)]


def log_again(body: dict[str, Any]) -> None:
    """Log a line that came from the tree, as it was logged there."""
    logger = logging.getLogger(str(body["name"]))
    level = int(body["level"])
    if not logger.isEnabledFor(level):
        return
    record = logger.makeRecord(logger.name, level, "", 0, str(body["text"]), (), None)
    record.created, record.process = float(body["created"]), int(body["process"])
    record.msecs = record.created % 1 * 1000
    logger.handle(record)
