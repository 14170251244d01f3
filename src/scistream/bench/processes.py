"""What the processes of a relay use: CPU time, memory; and how those of a benchmark end with it."""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import resource
import signal
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return what all threads of these processes have used, in nanosecond resolution."""
    total = 0
    for pid in pids:
        for schedstat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                total += int(schedstat.read_text().split()[0])
    return total / 1e9


def memory_bytes(pids: Iterable[int]) -> int:
    """Return the memory that these processes share with nobody (USS)."""
    return sum(psutil.Process(pid).memory_full_info().uss for pid in pids)


def tree(pid: int) -> list[int]:
    """Return the process and all that it has started.

    Raises
    ------
    psutil.NoSuchProcess
        It is not there.
    """
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


def trees(pids: Iterable[int]) -> list[int]:
    """Return the processes and all that they have started, each once; those that have ended are left out."""
    found: set[int] = set()
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.update(tree(pid))
    return sorted(found)


def listening_processes(port: int, addresses: Collection[str]) -> list[int]:
    """Return the processes that hold a TCP listener at `port` of one of `addresses`, or of all addresses.

    Those of other users are found by root only.
    """
    wanted = {*addresses, "0.0.0.0", "::"}  # noqa: S104 - looked for, not bound
    inodes = {
        f"socket:[{inode}]"
        for name, at, inode in (line for table in ("tcp", "tcp6") for line in _listeners(table))
        if at == port and name in wanted
    }
    found = []
    for process in psutil.process_iter():
        # it has ended, or is somebody else's
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if any(_link(entry) in inodes for entry in Path(f"/proc/{process.pid}/fd").iterdir()):
                found.append(process.pid)
    return found


def _listeners(table: str) -> Iterable[tuple[str, int, str]]:
    """Yield address, port and inode of every listening socket in /proc/net/`table`."""
    path = Path("/proc/net") / table
    if not path.exists():  # a kernel without IPv6
        return
    for line in path.read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A":  # TCP_LISTEN
            host, _, port = fields[1].partition(":")
            yield _address(bytes.fromhex(host)), int(port, 16), fields[9]


def _address(raw: bytes) -> str:
    """Return an address whose words of 32 bits are in the host's order."""
    if sys.byteorder == "little":
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    address = ipaddress.ip_address(raw)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _link(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except FileNotFoundError:  # closed meanwhile
        return ""


def end_with_parent(signum: int = signal.SIGKILL) -> None:
    """Let the kernel send `signum` to this process when its parent ends, however that ends.

    Raises
    ------
    OSError
        The kernel refuses.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def raise_descriptor_limit(wanted: int = 65_536) -> None:
    """Allow this process and the relays that it starts so many open files, if this user may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, wanted), max(hard, wanted)))
    except (PermissionError, ValueError):  # at least what this user may
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, wanted)), hard))


def most_connections(wanted: int) -> int:
    """Return how many connections one process may carry with its open files; ours counts six for each."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(wanted, (soft - 500) // 6)
