"""Choices that the command line repeats, so as to be quick, are those of the library."""

from __future__ import annotations

import dataclasses

import click
import pytest

from ministream.cli.daq import command
from ministream.cli.distribute import command as distribute_command
from ministream.frames import PIXEL_TYPES
from ministream.sources import ANGLE_UNITS, ATTRIBUTE_PRESETS, SourceOptions, ViewOrder
from ministream.stages.distribute import STRIPE_METHODS, DistributeOptions

PARAMETERS = {parameter.name: parameter for parameter in command.params}


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("order", tuple(ViewOrder)),
        ("angle_units", ANGLE_UNITS),
        ("attributes", ATTRIBUTE_PRESETS),
        ("pixel_type", PIXEL_TYPES),
    ],
)
def test_choices_are_those_of_the_library(name: str, choices: tuple[str, ...]) -> None:
    kind = PARAMETERS[name].type
    assert isinstance(kind, click.Choice)
    assert tuple(kind.choices) == choices


def test_what_is_corrected_is_that_of_the_library() -> None:
    parameters = {parameter.name: parameter for parameter in distribute_command.params}
    kind = parameters["stripes"].type
    assert isinstance(kind, click.Choice)
    assert tuple(kind.choices) == STRIPE_METHODS
    default = DistributeOptions(connect=[])
    for name in ("center", "stripes", "zingers", "tmq"):
        found = parameters[name].to_info_dict()["default"]
        assert (None if found == "auto" else found) == getattr(default, name), name


def test_every_way_to_read_a_scan_is_an_option_with_the_same_default() -> None:
    for field in dataclasses.fields(SourceOptions):
        default = PARAMETERS[field.name].to_info_dict()["default"]
        assert default == field.default, field.name
