"""The store of a scan: what is written is there after a kill, and room is taken before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ministream.errors import InputError, OutputError
from ministream.frames import ScanDescription
from ministream.stages.store import ScanStore
from ministream.stages.syncing import Syncing

ROWS, COLUMNS, PROJECTIONS = 3, 8, 5


def description(**changes: Any) -> ScanDescription:
    values = {
        "name": "test",
        "rows": ROWS,
        "columns": COLUMNS,
        "pixel_type": "uint16",
        "projections": PROJECTIONS,
        "flat_fields": 1,
        "dark_fields": 1,
    }
    return ScanDescription(**(values | changes))


def create(folder: Path | None) -> ScanStore:
    return ScanStore.create(folder, description(), flow="f", sender="s")


def view(value: float) -> np.ndarray:
    return np.full((ROWS, COLUMNS), value, np.float32) + np.arange(ROWS, dtype=np.float32)[:, None]


def field(value: float) -> np.ndarray:
    return np.full((3, ROWS, COLUMNS), value)


def test_what_was_added_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    with create(tmp_path / "new" / "state") as store:
        assert (store.count, store.next_sequence, store.complete) == (0, 0, False)
        store.set_fields(0, (1, field(5)), (0, field(0)))
        store.set_fields(1, (1, field(5)), (1, field(2)))
        assert store.next_sequence == 2
        store.add(2, 0.1, view(1), invalid=3)
        store.add(4, 0.2, view(2), invalid=1)
        scan = store.scan
    reopened = ScanStore.reopen(tmp_path / "new" / "state")
    assert reopened is not None
    with reopened as store:
        assert (store.scan, store.flow, store.sender) == (scan, "f", "s")
        assert store.description == description()
        assert (store.count, store.next_sequence, store.invalid_pixels) == (2, 5, 4)
        assert store.angles_rad[:2].tolist() == [0.1, 0.2]
        np.testing.assert_array_equal(store.rows(1, [range(1, 3)]), view(2)[1:])
        np.testing.assert_array_equal(store.rows(1, [range(1), range(2, 3)]), view(2)[[0, 2]])
        (flats, flat_sum), (darks, dark_sum) = store.fields
        assert (flats, darks) == (1, 1)
        np.testing.assert_array_equal(flat_sum, field(5))
        np.testing.assert_array_equal(dark_sum, field(2))
        store.remove()
    assert not (tmp_path / "new" / "state").exists()
    assert ScanStore.reopen(tmp_path / "new" / "state") is None


def test_it_is_complete_with_every_projection_or_when_the_daq_has_ended(tmp_path: Path) -> None:
    with create(tmp_path / "all") as store:
        for index in range(PROJECTIONS):
            assert not store.complete
            store.add(index, 0.0, view(0), invalid=0)
        assert store.complete
    with create(tmp_path / "some") as store:
        store.end()
        assert store.complete


def test_without_a_folder_nothing_is_left_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with create(None) as store:
        assert list(tmp_path.iterdir()) == []
        store.add(0, 0.0, view(7), invalid=0)
        np.testing.assert_array_equal(store.attenuation[0], view(7))
        store.remove()


WRITER = """
import sys
from pathlib import Path
import numpy as np
from ministream.stages.store import ScanStore
store = ScanStore.reopen(Path(sys.argv[1]))
number = 0
while True:
    # fields whose parts belong together, and then views that are of one value each
    value = float(number + 1)
    fields = np.full((3, 3, 8), value)
    store.set_fields(number, (number + 1, fields), (number + 1, -fields))
    number += 1
    if number % 50 == 0 and store.count < 5:
        store.add(number, value, np.full((3, 8), value, np.float32), invalid=0)
    print(number, flush=True)
"""


def test_a_kill_at_any_moment_leaves_it_whole(tmp_path: Path) -> None:
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        create(folder).__exit__(None, None, None)
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(37 + 61 * attempt):
            writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        store = ScanStore.reopen(folder)
        assert store is not None
        with store:
            (flats, flat_sum), (darks, dark_sum) = store.fields
            assert flats == darks >= 37
            assert (flat_sum == flats).all()
            assert (dark_sum == -flats).all()
            for index in range(store.count):
                assert (store.attenuation[index] == store.angles_rad[index]).all()


def test_two_at_a_time_are_refused(tmp_path: Path) -> None:
    with create(tmp_path), pytest.raises(OutputError, match="in use by another distributor"):
        ScanStore.reopen(tmp_path)


@pytest.mark.parametrize("content", ["junk", "[]", '{"version": 1}', '{"version": 99}'])
def test_what_is_no_store_is_said_so(tmp_path: Path, content: str) -> None:
    (tmp_path / "scan.json").write_text(content)
    with pytest.raises(InputError, match="remove"):
        ScanStore.reopen(tmp_path)


def test_a_scan_that_does_not_fit_is_refused_with_the_numbers(tmp_path: Path) -> None:
    large = description(rows=2048, columns=2048, projections=10**9)
    with pytest.raises(OutputError, match=r"needs 16777\d+\.\d MB .* MB are free"):
        ScanStore.create(tmp_path, large, flow="f", sender="s")


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        create(tmp_path / "file" / "state")


def go_down(folder: Path) -> None:
    """What a power cut does: pages that had not been written are lost, and the kernel is another one."""
    index = folder / "scan.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"boot": "another"}))


def lose_from(folder: Path, projection: int) -> None:
    with (folder / "attenuation").open("r+b") as file:
        file.seek(projection * ROWS * COLUMNS * 4)
        file.write(bytes((PROJECTIONS - projection) * ROWS * COLUMNS * 4))


def test_after_a_power_cut_there_is_what_was_on_the_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with create(tmp_path) as store:
        store.set_fields(0, (1, field(5)), (0, field(0)))
        store.set_fields(1, (1, field(5)), (1, field(2)))
        store.add(2, 0.1, view(1), invalid=3)
        store.add(3, 0.2, view(2), invalid=1)
        store.sync()
        store.add(4, 0.3, view(3), invalid=0)
    go_down(tmp_path)
    lose_from(tmp_path, 2)
    reopened = ScanStore.reopen(tmp_path)
    assert reopened is not None
    with reopened as store:
        assert store.shortened
        assert (store.count, store.next_sequence, store.complete) == (2, 4, False)
        np.testing.assert_array_equal(store.attenuation[1], view(2))
        np.testing.assert_array_equal(store.fields[0][1], field(5))
        assert "2 projections of test are on the disk (3 had come)" in caplog.text
        store.add(4, 0.3, view(3), invalid=0)
    # a kill after that costs nothing
    again = ScanStore.reopen(tmp_path)
    assert again is not None
    with again as store:
        assert (store.count, store.shortened) == (3, False)


def test_a_scan_that_was_complete_on_the_disk_is_complete_after_a_power_cut(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        store.add(0, 0.1, view(1), invalid=0)
        store.end()
        with Syncing(store, interval_s=1000):
            pass
    go_down(tmp_path)
    reopened = ScanStore.reopen(tmp_path)
    assert reopened is not None
    with reopened as store:
        assert (store.count, store.complete) == (1, True)


@pytest.mark.parametrize("synced", [False, True])
def test_what_cannot_go_on_after_a_power_cut_is_refused(tmp_path: Path, synced: bool) -> None:
    with create(tmp_path) as store:
        store.set_fields(0, (1, field(5)), (0, field(0)))
        if synced:
            store.sync()
            # the sums that were valid are written over, and their number is lost
            store.set_fields(1, (1, field(6)), (0, field(0)))
            store.set_fields(2, (1, field(7)), (0, field(0)))
    go_down(tmp_path)
    with pytest.raises(InputError, match=r"when this host went down.*remove it"):
        ScanStore.reopen(tmp_path)


def test_it_is_synced_beside_the_stream_and_removed_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with create(folder) as store, Syncing(store, interval_s=0.01):
        for number in range(PROJECTIONS):
            store.add(number, 0.1, view(number), invalid=0)
            give_up_at = time.monotonic() + 20
            while True:
                try:
                    durable = json.loads((folder / "durable.json").read_text())
                except FileNotFoundError:
                    durable = {"counts": [0]}
                if durable["counts"][0] == number + 1:
                    break
                assert time.monotonic() < give_up_at
                time.sleep(0.005)  # the interval of a poll
        store.remove()
    assert not folder.exists()


def test_a_disk_that_does_not_take_it_is_told_and_the_stream_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with create(tmp_path / "state") as store:
        (tmp_path / "state" / "views").rename(tmp_path / "views")
        with Syncing(store, interval_s=1000):
            store.add(0, 0.1, view(1), invalid=0)
        assert store.count == 1
    assert "after a power cut the scan could not go on" in caplog.text
