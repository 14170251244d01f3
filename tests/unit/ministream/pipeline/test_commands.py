"""The command lines of the stages say what a run was asked for."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ministream.cli.daq import command as daq_command
from ministream.cli.quality import command as quality_command
from ministream.pipeline import RunOptions
from ministream.pipeline.commands import daq, quality
from ministream.sources import SourceOptions

EVERYTHING: dict[str, Any] = {
    "flat_value": 12.5,
    "dark_value": 0.5,
    "dataset": "raw/images",
    "image_key": "raw/key",
    "flats": "raw/open",
    "darks": "raw/shut",
    "angles": "-5.5:180",
    "angle_units": "radians",
    "rows": (3, 4),
    "pixel_type": "float32",
    "repeat": 2,
    "projections": "2bm:Number",
    "attributes": "none",
    "kind_attribute": "Kind",
    "angle_attribute": "Angle",
    "present_frame": True,
    "buffer_mib": 7,
    "idle_timeout_s": 1.5,
}


def options(**changes: Any) -> RunOptions:
    values: dict[str, Any] = {
        "source": "scan.h5",
        "reading": SourceOptions(),
        "out": Path("out"),
        "workers": 1,
        "channels": 1,
        "data_server": "native",
        "rate": 20.0,
        "order": "golden-angle",
        "algorithm": "sirt",
        "window": 1,
        "step": 1,
        "iterations": 1,
        "refine": 1,
        "total_variation": 0.0,
        "allow_negative": False,
        "first_image": "fbp",
        "center": None,
        "stripes": "none",
        "zingers": 0.08,
        "steer": False,
        "tolerance": 0.03,
        "plot": None,
    }
    return RunOptions(**{**values, **changes})


@pytest.mark.parametrize("given", [{}, EVERYTHING], ids=["nothing", "everything"])
def test_the_daq_reads_the_scan_as_the_run_was_told(given: dict[str, Any]) -> None:
    assert set(EVERYTHING) == {entry.name for entry in fields(SourceOptions)}
    arguments = daq(options(reading=SourceOptions(**given)), None)
    arguments = arguments[arguments.index("daq") + 1 :]
    parsed = daq_command.make_context("daq", arguments).params
    assert SourceOptions(**{name: parsed[name] for name in EVERYTHING}) == SourceOptions(**given)
    assert (parsed["source"], parsed["rate"], parsed["order"]) == ("scan.h5", 20.0, "golden-angle")
    assert parsed["steer"] is None


def test_steering_leads_from_the_quality_stage_to_the_daq() -> None:
    steered = options(steer=True, plot=Path("quality.svg"))
    arguments = daq(steered, None)
    assert arguments[arguments.index("--steer") + 1] == "tcp://127.0.0.1:0"
    arguments = quality(steered, ["tcp://h:1", "tcp://h:2"], None, projections=9, stop_daq="tcp://h:3")
    parsed = quality_command.make_context("quality", arguments[arguments.index("quality") + 1 :]).params
    assert parsed["connect"] == ("tcp://h:1", "tcp://h:2")
    assert (parsed["projections"], parsed["order"], parsed["tolerance"]) == (9, "golden-angle", 0.03)
    assert (parsed["stop_daq"], parsed["plot"]) == ("tcp://h:3", Path("quality.svg"))
