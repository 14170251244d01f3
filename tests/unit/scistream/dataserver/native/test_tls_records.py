"""Records are followed however their bytes are divided."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from scistream.dataserver.native.tls_records import RecordBoundaries


@given(st.lists(st.integers(0, 700), max_size=6), st.lists(st.integers(1, 300), max_size=40))
def test_it_is_inside_a_record_but_at_its_ends(lengths: list[int], pieces: list[int]) -> None:
    stream = b"".join(bytes((23, 3, 3)) + length.to_bytes(2) + bytes(length) for length in lengths)
    ends = {0, *accumulate(5 + length for length in lengths)}
    records, at = RecordBoundaries(), 0
    for piece in [*pieces, len(stream)]:
        part = stream[at : at + piece]
        records.follow(memoryview(part))
        at += len(part)
        assert records.inside == (at not in ends)
