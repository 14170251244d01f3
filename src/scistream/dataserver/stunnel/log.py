"""What stunnel writes at ``debug = info``: each connection from its beginning to its end, by its number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from scistream.core.endpoint import Endpoint
from scistream.dataserver.programs.connections import Ended

_LINE = re.compile(r"\S+ \S+ LOG(\d)\[([^]]*)\]: (.*)")
_ACCEPTED = re.compile(r"Service \[([^]]*)\] accepted connection from (\S+):(\d+)")
_ENDED = re.compile(r"Connection \S+: (\d+) byte\(s\) sent to TLS, (\d+) byte\(s\) sent to socket")
_TARGET_REACHED = re.compile(r"Service \[[^]]*\] connected remote server")
_PEER_PROVED = re.compile(r"TLS (accepted|connected):")
_ERROR, _WARNING = 3, 4


def split(line: str) -> tuple[int, str, str]:
    """Return level, number of the connection (or who else speaks) and words of a line."""
    found = _LINE.fullmatch(line)
    return (int(found.group(1)), found.group(2), found.group(3)) if found else (_ERROR, "", line.strip())


@dataclass(slots=True)
class _Open:
    """A connection that has not ended."""

    index: int
    remote: Endpoint
    target_reached: bool = False
    peer_proved: bool = False
    error: str = ""


class ConnectionLog:
    """All connections of one process.

    Parameters
    ----------
    names : mapping
        The channels' numbers, by name.
    accepts_tls : bool
        Whether bytes sent to the plain socket are those to the target.

    Attributes
    ----------
    ended : list of list of int
        Per channel, in the order of `ChannelStatistics`; what is open is not in it.
    failed : int or None
        The channel whose connection has failed by the line read last.
    closing : Ended
        What is in `ended` and may have a socket still.
    """

    def __init__(self, names: Mapping[str, int], *, accepts_tls: bool) -> None:
        self._names = names
        self._accepts_tls = accepts_tls
        self._open: dict[str, _Open] = {}
        self.ended = [[0] * 5 for _ in names]
        self.failed: int | None = None
        self.closing = Ended()

    def read(self, line: str) -> str:
        """Take a line; return what of it is worth one in our log, if anything is."""
        level, number, words = split(line)
        self.failed = None
        accepted = _ACCEPTED.match(words)
        if accepted is not None:
            name, host, port = accepted.groups()
            remote = Endpoint(host.removeprefix("::ffff:"), int(port))
            self._open[number] = _Open(self._names[name], remote)
            return ""
        connection = self._open.get(number)
        if connection is None:
            return words if level <= _WARNING else ""
        if _TARGET_REACHED.match(words):
            connection.target_reached = True
        elif _PEER_PROVED.match(words):
            connection.peer_proved = True
        elif (ended := _ENDED.match(words)) is not None:
            del self._open[number]
            return self._end(connection, int(ended.group(1)), int(ended.group(2)))
        elif level <= _ERROR:
            connection.error = words
        return ""

    def _end(self, connection: _Open, to_tls: int, to_socket: int) -> str:
        self.closing.add(connection.remote)
        figures = self.ended[connection.index]
        figures[1] += 1
        if connection.target_reached and connection.peer_proved:
            figures[3] += to_socket if self._accepts_tls else to_tls
            figures[4] += to_tls if self._accepts_tls else to_socket
            return ""
        figures[2] += 1
        self.failed = connection.index
        return f"channel{connection.index}: connection refused: {connection.error or 'its client has gone'}"
