"""Every error has its exit code."""

from __future__ import annotations

import pytest

from ministream import errors
from ministream.cli.exit_codes import ExitCode, exit_code_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError("x"), 3),
        (errors.ConnectionFailed("x"), 4),
        (errors.ProtocolError("x"), 4),
        (errors.PortInUse("x"), 5),
        (errors.OutputError("x"), 5),
        (errors.StageError("x"), 8),
        (errors.MiniStreamError("x"), 1),
    ],
)
def test_an_error_has_its_code(error: errors.MiniStreamError, code: int) -> None:
    assert exit_code_of(error) == code


def test_every_class_has_a_code() -> None:
    def below(kind: type[errors.MiniStreamError]) -> list[type[errors.MiniStreamError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in below(child))]

    for kind in below(errors.MiniStreamError)[1:]:
        assert exit_code_of(kind("x")) is not ExitCode.BUG
