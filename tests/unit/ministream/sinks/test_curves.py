"""Curves are files that other programs read."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from PIL import Image

from ministream.errors import InputError, OutputError
from ministream.sinks.curves import write_curves


def test_each_figure_has_a_curve_and_the_mark_its_words(tmp_path: Path) -> None:
    path = tmp_path / "curves.svg"
    write_curves(
        path,
        [1, 2, 3],
        {"ssim": [0.1, 0.5, 0.6], "psnr": [10, math.inf, 20]},
        x_label="projections",
        title="title",
        mark=(2, "enough: 2"),
    )
    text = path.read_text()
    for words in ("ssim", "psnr", "projections", "title", "enough: 2"):
        assert f"<!-- {words} -->" in text
    # one dashed line in each
    assert len(re.findall("stroke-dasharray", text)) >= 2
    assert [one.name for one in tmp_path.iterdir()] == ["curves.svg"]


def test_a_png_is_an_image(tmp_path: Path) -> None:
    write_curves(tmp_path / "a.png", [0], {"ssim": [1.0]}, x_label="slice", title="one")
    with Image.open(tmp_path / "a.png") as image:
        image.verify()


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    labels = {"x_label": "x", "title": "t"}
    with pytest.raises(InputError, match="nothing to plot"):
        write_curves(tmp_path / "a.png", [], {"ssim": []}, **labels)
    with pytest.raises(InputError, match="2 values for 1"):
        write_curves(tmp_path / "a.png", [1], {"ssim": [1, 2]}, **labels)
    with pytest.raises(InputError, match=r"\.png"):
        write_curves(tmp_path / "a.gif", [1], {"ssim": [1]}, **labels)
    with pytest.raises(OutputError):
        write_curves(tmp_path / "none" / "a.png", [1], {"ssim": [1]}, **labels)
