"""The kinds of data servers that tests run over."""

from __future__ import annotations

import pytest

#: Those that run a program of that name for each session.
PROGRAMS = [pytest.param(name, marks=pytest.mark.peer(name)) for name in ("haproxy", "nginx", "stunnel")]
