"""Fields come before what they correct, once, and again where they were measured again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ministream.frames import FrameKind
from ministream.sources import ViewOrder, view_order
from ministream.sources.sets import play_order

P, F, D = FrameKind.PROJECTION, FrameKind.FLAT_FIELD, FrameKind.DARK_FIELD
_OF = {"p": P, "f": F, "d": D, "-": None}


def played(text: str, order: ViewOrder = ViewOrder.AS_MEASURED) -> str:
    """Letters and places; a capital letter begins a new set."""
    letters = {P: "p", F: "f", D: "d"}
    shown = []
    for play in play_order([_OF[letter] for letter in text], order):
        letter = letters[play.kind]
        shown.append(f"{letter.upper() if play.resets else letter}{play.index}")
    return " ".join(shown)


def test_dark_fields_come_first_then_flat_fields_then_projections() -> None:
    assert played("fddfpp") == "D1 d2 F0 f3 p4 p5"


def test_fields_between_projections_stay_there_and_begin_new_sets() -> None:
    assert played("dfppfdpp") == "D0 F1 p2 p3 D5 F4 p6 p7"
    assert played("dfppffpp") == "D0 F1 p2 p3 F4 f5 p6 p7"


def test_fields_after_the_last_projection_come_last() -> None:
    assert played("dfppfd") == "D0 F1 p2 p3 D5 F4"


def test_a_kind_that_is_only_measured_later_is_brought_to_the_front() -> None:
    assert played("ppfd") == "D3 F2 p0 p1"
    assert played("fppdpp") == "D3 F0 p1 p2 p4 p5"


def test_frames_of_no_kind_are_left_out() -> None:
    assert played("-df-pp-") == "D1 F2 p4 p5"


def test_another_order_stays_within_the_block_of_its_fields() -> None:
    text = "df" + "p" * 8 + "f" + "p" * 8
    first = [f"p{2 + view}" for view in view_order(8, ViewOrder.BIT_REVERSED)]
    second = [f"p{11 + view}" for view in view_order(8, ViewOrder.BIT_REVERSED)]
    assert played(text, ViewOrder.BIT_REVERSED).split() == ["D0", "F1", *first, "F10", *second]


@given(st.text("pfd-", max_size=60), st.sampled_from(ViewOrder))
def test_every_frame_comes_once_and_no_projection_before_its_fields(text: str, order: ViewOrder) -> None:
    plays = play_order([_OF[letter] for letter in text], order)
    assert sorted(play.index for play in plays) == [at for at, letter in enumerate(text) if letter != "-"]
    for kind, letter in ((F, "f"), (D, "d")):
        indices = [play.index for play in plays if play.kind is kind]
        for at, play in enumerate(plays):
            if play.kind is P and letter in text:
                before = [earlier.index for earlier in plays[:at] if earlier.kind is kind]
                assert before
                # the newest that was measured before it, or the first of all
                measured = [index for index in indices if index < play.index]
                assert before[-1] == (measured[-1] if measured else before[-1])
