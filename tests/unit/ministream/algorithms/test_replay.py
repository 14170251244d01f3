"""Which views are replayed."""

from __future__ import annotations

import numpy as np

from ministream.algorithms.base import Settings
from ministream.algorithms.replay import WindowReplay
from ministream.kernels.sirt import SirtEngine


def test_a_replay_holds_what_is_new_and_in_turn_everything_else() -> None:
    engine = SirtEngine(slices=1, columns=16, rotation_center=7.5, views=40, threads=1)
    subject = WindowReplay(engine, 40, Settings(window=8, step=4))
    for view in range(30):
        subject.add(0.07 * view, np.ones((1, 16), np.float32))
    replays = [subject._with_replay() for _ in range(12)]
    assert all({28, 29} <= set(replay) and len(replay) <= 8 for replay in replays)
    assert set(np.concatenate(replays)) == set(range(30))
