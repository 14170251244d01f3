"""Ctrl-C while a program is still being loaded, and when it is over.

Before, nothing has been begun, so it ends without a word. After, what it was to do is done and has been said:
its exit code must not say anything else.
"""

from __future__ import annotations

import os
import signal
from importlib import import_module
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def load_and_run(module: str) -> NoReturn:
    """Run the ``main`` of a module that takes a while to import."""
    before = {signum: signal.signal(signum, _end) for signum in _SIGNALS}
    main = import_module(module).main
    for signum, handler in before.items():
        signal.signal(signum, handler)
    try:
        main()
    finally:
        for signum in _SIGNALS:
            signal.signal(signum, signal.SIG_IGN)
    raise SystemExit


def _end(signum: int, _: FrameType | None) -> None:
    os._exit(128 + signum)
