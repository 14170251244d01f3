"""How processes end: waited for, and said in words."""

from __future__ import annotations

import os
import select
import signal


def has_ended(descriptor: int, limit_s: float = 0) -> bool:
    """Return whether the process of this pidfd has ended, or does so in time."""
    poll = select.poll()  # unlike select it takes any descriptor
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(limit_s * 1000))


def wait_for_exit(pid: int, limit_s: float) -> int | None:
    """Return the wait status of a child of this process; None if it has not ended in time."""
    descriptor = os.pidfd_open(pid)
    try:
        return os.waitpid(pid, 0)[1] if has_ended(descriptor, limit_s) else None
    finally:
        os.close(descriptor)


def describe_exit(status: int | None) -> str:
    """Return a wait status in words; None is that of a process that goes on, but talks to nobody."""
    if status is None:
        return "closed its control socket"
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # most real-time signals have no name
        return f"was killed by signal {-code}"
