"""How much memory a process can still get here, and how much it has had."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

SHARE = 0.8
"""Of the memory that is free when workers start: what they may use together."""
_CGROUP = Path("/sys/fs/cgroup")
_FACTOR = 1024


def free_bytes(*, cgroup: Path = _CGROUP) -> int:
    """Return how much memory this process can still get: of the machine, and of its control groups."""
    free = int(psutil.virtual_memory().available)
    for folder in _control_groups(cgroup):
        limit, used = _limits(folder)
        if limit is not None and used is not None:
            free = min(free, max(0, limit - used))
    return free


def _control_groups(root: Path) -> list[Path]:
    """Return the folders of the control groups with memory limits that this process is in, and above."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        below = Path(path.lstrip("/"))
        # in a container the path may be that outside, and only the top is there
        folders += [top / parent for parent in (below, *below.parents)]
    return folders


def _limits(folder: Path) -> tuple[int | None, int | None]:
    """Return limit and use of a control group, of version 2 or 1."""
    limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
    used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
    if used is not None:
        # files that were read once: the kernel gives that back when it is needed
        used = max(0, used - _cached(folder / "memory.stat"))
    return limit, used


def _cached(path: Path) -> int:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return 0
    found = dict(line.split(" ", 1) for line in lines if " " in line)
    number = found.get("total_inactive_file", found.get("inactive_file", "0")).strip()
    return int(number) if number.isdigit() else 0


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() else None


def peak_bytes() -> int:
    """Return the most memory that this process has had."""
    for line in Path(f"/proc/{os.getpid()}/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * _FACTOR
    return 0


def shown(size: int) -> str:
    """Return a size as people write it.

    Examples
    --------
    >>> shown(3 << 29)
    '1.5 GiB'
    """
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < _FACTOR:
            break
        value, unit = value / _FACTOR, larger
    return f"{value:.4g} {unit}"
