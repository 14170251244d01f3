"""Runs tests inside a kernel of their own: User-mode Linux, a Linux that is a program of this one.

It needs no root and no network. Its root file system is the host's, read-only, so that Python and the
checkout are where they are; what it writes is in its memory, or in the folder for its results.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

PROGRAM = "linux.uml"
MEMORY = "1536M"
_CHECKOUT = Path(__file__).resolve().parents[2]
#: Those of TLS and its ciphers, and IPv6; in the order of their needs.
_MODULES = (
    "gf128mul ghash-generic ctr gcm libchacha libpoly1305 chacha_generic poly1305_generic chacha20poly1305 "
    "tls crc-ccitt ipv6"
)
# Small buffers, as this kernel is slow, and stalled receivers leave all that they hold to be sent. Without
# CAP_NET_ADMIN the data server may not set larger ones, and gets the kernel's TLS as any user does.
_INIT = r"""#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs tmp /run
mount -t tmpfs tmp /var/tmp
ln -s /proc/self/fd /dev/fd; ln -s fd/1 /dev/stdout; ln -s fd/2 /dev/stderr
mkdir /run/results
mount -t hostfs -o {folder} results /run/results
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export TMPDIR=/var/tmp HOME=/var/tmp PYTHONDONTWRITEBYTECODE=1 MINISTREAM_REQUIRE_PEERS={require}
{python} {loader} {modules} > /run/results/output 2>&1
ip link set lo up
echo '4096 65536 262144' > /proc/sys/net/ipv4/tcp_rmem
echo '4096 65536 262144' > /proc/sys/net/ipv4/tcp_wmem
ulimit -n 65536
cd {checkout}
setpriv --bounding-set=-net_admin --inh-caps=-net_admin \
    {python} -m pytest -p no:cacheprovider -p no:hypothesispytest --color=no {arguments} \
    >> /run/results/output 2>&1
echo $? > /run/results/status
cat /proc/net/tls_stat > /run/results/tls_stat
echo o > /proc/sysrq-trigger
sleep 60
"""


@dataclass(frozen=True)
class Outcome:
    """What came out of a run.

    `status` is pytest's, None if it did not end; `output` is all that was said; `tls_stat` the counters.
    """

    status: int | None
    output: str
    tls_stat: dict[str, int]


def run_inside(folder: Path, arguments: Sequence[str], *, timeout_s: float) -> Outcome:
    """Run pytest with `arguments` in a new kernel, which is gone afterwards."""
    init = folder / "init"
    quoted = {"folder": folder, "python": sys.executable, "checkout": _CHECKOUT, "loader": Path(__file__)}
    init.write_text(
        _INIT.format(
            **{name: shlex.quote(str(value)) for name, value in quoted.items()},
            require=os.environ.get("MINISTREAM_REQUIRE_PEERS", "0"),
            modules=_MODULES,
            arguments=shlex.join(arguments),
        )
    )
    init.chmod(0o700)
    command = [PROGRAM, f"mem={MEMORY}", f"uml_dir={folder}/", "root=/dev/root", "rootfstype=hostfs"]
    command += ["rootflags=/", "ro", f"init={init}", "con=null", "con0=null,fd:1", "quiet", "panic=-1"]
    with (folder / "console").open("wb") as console:
        kernel = psutil.Popen(
            command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
        )
        try:
            with contextlib.suppress(psutil.TimeoutExpired):
                kernel.wait(timeout_s)
        finally:
            _end(kernel)
    said = {name: _text(folder / name) for name in ("status", "output", "tls_stat", "console")}
    return Outcome(
        status=int(said["status"]) if said["status"].strip() else None,
        output=f"{said['console']}\n{said['output']}",
        tls_stat={name: int(value) for name, value in map(str.split, said["tls_stat"].splitlines())},
    )


def _end(kernel: psutil.Popen) -> None:
    """Kill what is left of it: each of its processes is one of this host."""
    left = [kernel, *kernel.children(recursive=True)] if kernel.is_running() else []
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    kernel.wait(10)
    psutil.wait_procs(left, timeout=10)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _load(names: Sequence[str]) -> None:
    """Load kernel modules; those that are built in, or are called otherwise in this version, are no files."""
    import ctypes
    import errno

    finit_module = 313  # x86-64
    folder = Path("/usr/lib/uml/modules") / os.uname().release / "kernel"
    libc = ctypes.CDLL(None, use_errno=True)
    paths = {path.stem: path for path in folder.rglob("*.ko")}
    for path in [paths[name] for name in names if name in paths]:
        with path.open("rb") as file:
            if libc.syscall(finit_module, file.fileno(), b"", 0) and ctypes.get_errno() != errno.EEXIST:
                print(f"{path}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    _load(sys.argv[1:])
