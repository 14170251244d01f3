"""One connection of a receiver: whether its sender is there, has answered, has gone."""

from __future__ import annotations

import zmq

from ministream.transport.sockets import ConnectionMonitor


class IncomingConnection:
    """One connection of the flow.

    Attributes
    ----------
    received : int
        Messages, notices and ends that have come on it, since the beginning.
    welcome : bool
        The sender has answered, and the connection has not been lost since.
    established : bool
        The sender has been there, whether or not it has answered.
    """

    def __init__(self, address: str, index: int, socket: zmq.Socket[bytes]) -> None:
        self.address = address
        self.index = index
        self.socket = socket
        self.monitor = ConnectionMonitor(socket)
        self.received = 0
        self.welcome = False
        self.established = False
        self.lost = False
        self.farewell = False
        self.ask_again_at_s = float("inf")

    def read_monitor(self) -> tuple[bool, bool]:
        """Return whether it was lost, and whether it has come back, since the last call."""
        was_lost = came_back = False
        for came in self.monitor.events():
            # a relay may accept and hang up before the far end is there: that is no loss, ZeroMQ dials again
            if came:
                came_back = self.established
                self.established, self.lost = True, False
            elif self.established:
                was_lost, came_back = True, False
                self.lost, self.welcome = True, False
        return was_lost, came_back

    def close(self, linger_s: float | None = None) -> None:
        """Close its socket; None leaves what is sent the usual time."""
        self.monitor.close()
        self.socket.close(linger=None if linger_s is None else int(linger_s * 1000))
