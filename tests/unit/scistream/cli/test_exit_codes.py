"""Every error has its exit code."""

from __future__ import annotations

import inspect

from scistream import errors
from scistream.cli.exit_codes import ExitCode, exit_code_of
from scistream.control.service import STATUS_CODES, status_code_of

ERRORS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.SciStreamError) and kind is not errors.SciStreamError
]


def test_no_error_of_ours_counts_as_a_bug() -> None:
    assert len(ERRORS) >= 12
    for kind in ERRORS:
        assert exit_code_of(kind("x")) not in {ExitCode.OK, ExitCode.BUG, ExitCode.USAGE}


def test_the_codes_are_the_documented_ones() -> None:
    assert {kind.__name__: int(exit_code_of(kind("x"))) for kind in ERRORS} == {
        "ConfigurationError": 3,
        "InvalidArgument": 3,
        "CallerError": 7,
        "SessionNotFound": 7,
        "SessionExists": 7,
        "WrongState": 7,
        "DeadlineExceeded": 7,
        "ResourceExhausted": 5,
        "AuthenticationError": 6,
        "PermissionDenied": 6,
        "PeerError": 4,
        "DataServerError": 8,
    }


def test_every_error_has_a_status_code_too() -> None:
    for kind in ERRORS:
        assert status_code_of(kind("x")) in STATUS_CODES.values()
