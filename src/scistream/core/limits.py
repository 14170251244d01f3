"""How long a session waits for whom, and how much is kept for those who do not come."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The operator's bounds on every session.

    Parameters
    ----------
    hello_timeout_s : float
        From the reservation to the application's HELLO. 180 s is the reference implementation's.
    update_timeout_s : float
        From the answer to REQ to UpdateTargets.
    early_hello_timeout_s : float
        How long a HELLO waits for its REQ. Below the 5 s after which the reference client gives up.
    queue_timeout_s : float
        How long a request queues for capacity and ports.
    idle_timeout_s, lifetime_s : float
        Longest time without traffic, and longest lifetime, that a session gets; 0 sets no limit.
    restarts_in_a_row : int
        How often a data server that ends by itself is restarted before the session fails.
    steady_s : float
        After so long without another end, earlier restarts no longer count as in a row.
    early_hellos, ended_sessions, queue_length : int
        How many HELLOs without REQ, ended sessions and queueing requests are kept at most.
    """

    hello_timeout_s: float = 180
    update_timeout_s: float = 180
    early_hello_timeout_s: float = 4
    queue_timeout_s: float = 3600
    idle_timeout_s: float = 0
    lifetime_s: float = 0
    restarts_in_a_row: int = 5
    steady_s: float = 60
    early_hellos: int = 10_000
    ended_sessions: int = 1_000
    queue_length: int = 1_000
