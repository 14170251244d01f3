"""What a run leaves behind: one volume out of the workers' parts, its picture, its quality figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ministream.sinks import merge_volumes, read_volume, replacing, write_picture
from ministream.stages.judging import judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Where the results are, and how good the volume is."""

    volume: Path
    picture: Path
    quality_file: Path
    quality: dict[str, float]


def write(
    folder: Path,
    *,
    parts: Sequence[Path],
    truth: Path | None,
    attributes: Mapping[str, str | int | float],
) -> Results:
    """Write ``volume.h5``, ``slices.png`` and ``quality.json`` into `folder`.

    Parameters
    ----------
    parts : sequence of Path
        The workers' files, in any order; together they hold every slice once.
    truth : Path or None
        File of the ground truth.
    attributes : mapping
        Provenance.

    Raises
    ------
    OutputError
        A file cannot be written. Each file is there whole or not at all.
    """
    volume_path, picture_path, quality_path = (
        folder / name for name in ("volume.h5", "slices.png", "quality.json")
    )
    merge_volumes(volume_path, parts, attributes=attributes)
    volume, _ = read_volume(volume_path)
    quality = judge(volume, None if truth is None else read_volume(truth)[0])
    write_picture(picture_path, volume)
    with replacing(quality_path) as draft:
        draft.write_text(json.dumps(quality, indent=2) + "\n", encoding="utf-8")
    return Results(volume=volume_path, picture=picture_path, quality_file=quality_path, quality=quality)
