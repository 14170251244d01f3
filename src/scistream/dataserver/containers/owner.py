"""Whose a container is: processes named for all times, so that what dead ones have left can be told."""

from __future__ import annotations

import os
from pathlib import Path


def name_of(pid: int) -> str:
    """Return a process's name: when the machine started, the space of its number, its number, its start."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()} {pid} {_started(pid)}"


def has_gone(name: str) -> bool:
    """Return whether the process of that name has ended, as far as one can know from here."""
    boot, space, pid, started = name.split(" ")
    our_boot, our_space, *_ = name_of(os.getpid()).split(" ")
    return boot != our_boot or (space == our_space and _started(int(pid)) != started)


def _started(pid: int) -> str:
    """Return when a process was started, in ticks (proc_pid_stat(5)); nothing if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return stat.rpartition(")")[2].split()[19]
