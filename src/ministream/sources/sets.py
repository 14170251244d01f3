"""In which order a file's frames are played: fields before what they correct, views in the wished order.

A scan is a sequence of blocks of projections; before each may stand dark and flat fields. Fields that come
again replace the earlier ones of their kind for what follows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ministream.frames import FrameKind
from ministream.sources.order import ViewOrder, view_order


@dataclass(frozen=True, slots=True)
class Play:
    """One frame to be played: which one of its stack, as what, and whether it begins a new set of fields."""

    kind: FrameKind
    index: int
    resets: bool = False


@dataclass(slots=True)
class _Block:
    fields: dict[FrameKind, list[int]] = field(default_factory=dict)
    projections: list[int] = field(default_factory=list)


def play_order(kinds: Iterable[FrameKind | None], order: ViewOrder) -> list[Play]:
    """Return how the frames of a stack, whose kinds these are in the order of measuring, are played.

    Dark fields come before flat fields. Views are put in order within their block, so that each stays behind
    the fields that are its own. A kind of field that is there only later is brought to the front: nothing is
    played before there is something to correct it by. Fields behind the last block are played at the end.

    Parameters
    ----------
    kinds : iterable of FrameKind or None
        None is a frame that is left out.
    order : ViewOrder
    """
    blocks = _blocks(kinds)
    first = blocks[0]
    for kind in (FrameKind.DARK_FIELD, FrameKind.FLAT_FIELD):
        found = next((block for block in blocks if kind in block.fields), first)
        if found is not first:
            first.fields[kind] = found.fields.pop(kind)
    played = []
    for block in blocks:
        for kind in (FrameKind.DARK_FIELD, FrameKind.FLAT_FIELD):
            indices = block.fields.get(kind, [])
            played += [Play(kind, index, resets=place == 0) for place, index in enumerate(indices)]
        views = view_order(len(block.projections), order)
        played += [Play(FrameKind.PROJECTION, block.projections[view]) for view in views]
    return played


def _blocks(kinds: Iterable[FrameKind | None]) -> list[_Block]:
    blocks = [_Block()]
    for index, kind in enumerate(kinds):
        if kind is None:
            continue
        if kind is FrameKind.PROJECTION:
            blocks[-1].projections.append(index)
            continue
        if blocks[-1].projections:
            blocks.append(_Block())
        blocks[-1].fields.setdefault(kind, []).append(index)
    return blocks
