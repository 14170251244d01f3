"""The description of a scan: what it refuses, and how it travels."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ministream.errors import InputError, ProtocolError
from ministream.frames import ScanDescription

VALUES: dict[str, Any] = {
    "name": "scan",
    "rows": 2,
    "columns": 8,
    "pixel_type": "uint16",
    "projections": 10,
    "flat_fields": 3,
    "dark_fields": 0,
}


def test_it_counts_all_frames() -> None:
    assert ScanDescription(**VALUES).frames == 13


def test_it_travels_as_json() -> None:
    description = ScanDescription(**VALUES)
    content = json.loads(json.dumps({**description.as_mapping(), "more": 1}))
    assert ScanDescription.from_mapping(content) == description


@pytest.mark.parametrize(
    "changes", [{"rows": 0}, {"columns": 1}, {"projections": True}, {"pixel_type": "int32"}, {"rows": 2.0}]
)
def test_the_impossible_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        ScanDescription(**{**VALUES, **changes})
    with pytest.raises(ProtocolError):
        ScanDescription.from_mapping({**VALUES, **changes})


@pytest.mark.parametrize("name", list(VALUES))
def test_a_peer_must_tell_everything(name: str) -> None:
    with pytest.raises(ProtocolError, match=name):
        ScanDescription.from_mapping({key: value for key, value in VALUES.items() if key != name})


@pytest.mark.parametrize("changes", [{"name": 3}, {"pixel_type": ["uint8"]}])
def test_a_peer_must_tell_texts(changes: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        ScanDescription.from_mapping({**VALUES, **changes})
