"""The kinds of data servers that tests run over."""

from __future__ import annotations

import os
from typing import Any

import pytest

_NAMES = ("haproxy", "nginx", "stunnel")

#: Those that run a program of that name for each session.
PROGRAMS = [pytest.param(name, marks=pytest.mark.peer(name)) for name in _NAMES]
#: The same in containers.
CONTAINERS = [pytest.param(f"{name}container", marks=pytest.mark.peer("dockerd", name)) for name in _NAMES]
#: For tests of which containers are worth the time only where somebody asks for it.
PROGRAMS_MOSTLY = [*PROGRAMS, *(CONTAINERS if os.environ.get("MINISTREAM_ALL_CONTAINERS") == "1" else [])]


def program_of(kind: str) -> str:
    """The program that such a data server runs."""
    return kind.removesuffix("container")


def options_of(kind: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a data server of that kind has to be told to work with what tests have here."""
    if not kind.endswith("container"):
        return {}
    engine = request.getfixturevalue("container_engine")
    return {"image": engine.image(program_of(kind)), "engine": engine.url}
