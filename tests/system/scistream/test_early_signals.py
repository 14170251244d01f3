"""Signals while ``s2uc`` is being loaded, when nothing has been begun, and after its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

LOADS_FOR_EVER = """
import importlib, sys, threading
from scistream.cli import early

def loading(module):
    print("loading", module, flush=True)
    threading.Event().wait()

early.import_module = loading
early.load_and_run("scistream.cli.s2uc.main")
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_is_loaded_is_its_quiet_end(signum: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LOADS_FOR_EVER],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("loading")
    process.send_signal(signum)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (128 + signum, "", "")


OVER = """
import signal, sys
from scistream.cli import early

class Finished:
    @staticmethod
    def main():
        print("done", flush=True)
        sys.exit(0)

early.import_module = lambda module: Finished
try:
    early.load_and_run("finished")
finally:
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)
"""


def test_a_signal_after_the_end_does_not_change_the_exit_code() -> None:
    finished = subprocess.run([sys.executable, "-c", OVER], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "done\n", "")
