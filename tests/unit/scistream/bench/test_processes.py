"""What processes use, who listens, and that relays end with the benchmark."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import psutil
import pytest

from scistream.bench.processes import cpu_seconds, listening_processes, tree, trees
from support.gateways import until


def test_cpu_time_is_what_the_process_has_used() -> None:
    before, used_before_s = cpu_seconds([os.getpid()]), time.process_time()
    deadline_s = time.process_time() + 0.1
    while time.process_time() < deadline_s:
        pass
    grown_s = cpu_seconds([os.getpid()]) - before
    assert grown_s == pytest.approx(time.process_time() - used_before_s, abs=0.05)
    assert cpu_seconds([]) == 0


@pytest.mark.parametrize(
    ("family", "host", "asked"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
    ],
)
def test_who_holds_a_listener_is_found(family: socket.AddressFamily, host: str, asked: str) -> None:
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert listening_processes(port, {asked}) == [os.getpid()]
        if host != "0.0.0.0":
            assert listening_processes(port, {"192.0.2.1"}) == []
    assert listening_processes(port, {asked}) == []


def test_children_belong_to_a_tree_and_the_dead_are_left_out() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as process:
        until(lambda: len(tree(process.pid)) == 2)
        assert process.stdin is not None
        process.stdin.close()
    assert trees([process.pid]) == []


def test_a_process_ends_with_its_parent_even_if_that_is_killed() -> None:
    script = (
        "import os, time\n"
        "from scistream.bench.processes import end_with_parent\n"
        "end_with_parent()\nprint(os.getpid(), flush=True)\ntime.sleep(100)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {script!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.kill()
        until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
