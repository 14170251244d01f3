"""How a rate is divided among connections that use it and connections that do not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scistream.dataserver.native.pacing import shares


@given(st.floats(1e3, 1e10), st.integers(1, 5000), st.integers(0, 5000))
def test_the_busy_ones_have_the_rate_and_all_at_once_never_more_than_twice(
    bytes_per_s: float, connections: int, busy: int
) -> None:
    busy = min(busy, connections)
    busy_share, idle_share = shares(bytes_per_s, connections, busy)
    assert busy_share >= idle_share >= 1
    if bytes_per_s > 1000 * connections:
        assert 0.99 * bytes_per_s <= busy_share * (busy or connections) <= bytes_per_s
        assert busy_share * busy + idle_share * (connections - busy) <= 2 * bytes_per_s


def test_more_busy_ones_than_are_known_share_the_rate() -> None:
    assert shares(1000.0, connections=1, busy=4) == (250, 250)
