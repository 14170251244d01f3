"""Charts are files that other programs read; what cannot be drawn is refused before."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from PIL import Image

from ministream.errors import InputError, OutputError
from ministream.sinks.chart import Panel, check_chart, write_chart

PANELS = [
    Panel(title=f"panel {number}", unit="Gb/s", values={"ours": 3.0, "haproxy": 1.0}, highlighted={"ours"})
    for number in range(4)
]


def test_a_png_is_an_image_in_which_ours_stands_out(tmp_path: Path) -> None:
    path = tmp_path / "chart.png"
    write_chart(path, PANELS, title="title")
    with Image.open(path) as image:
        image.verify()
    with Image.open(path) as image:
        colors = {color for _, color in image.convert("RGB").getcolors(1 << 20) or []}
    assert {(0xC2, 0x41, 0x0C), (0x9A, 0xA5, 0xB1)} <= colors
    assert [one.name for one in tmp_path.iterdir()] == ["chart.png"]


def test_svg_and_pdf(tmp_path: Path) -> None:
    write_chart(tmp_path / "chart.svg", PANELS[:1], title="title")
    assert ET.parse(tmp_path / "chart.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    write_chart(tmp_path / "chart.PDF", PANELS[:1], title="title")
    assert (tmp_path / "chart.PDF").read_bytes().startswith(b"%PDF-")


@pytest.mark.parametrize("name", ["chart.gif", "chart", ".png"])
def test_another_format_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"\.png, \.svg, \.pdf"):
        check_chart(tmp_path / name)


def test_nothing_to_draw_and_nowhere_to_draw_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to plot"):
        write_chart(tmp_path / "chart.png", [], title="title")
    with pytest.raises(OutputError, match="make its folder"):
        check_chart(tmp_path / "missing" / "chart.png")


def test_without_matplotlib_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install 'ministream\[plot\]'"):
        check_chart(tmp_path / "chart.png")
