"""Checkpoints: whole or not there, whatever is killed, cut or changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ministream.errors import OutputError
from ministream.stages.checkpoint import Checkpoint, Part

RANDOM = np.random.default_rng(3)
VIEWS = RANDOM.normal(size=(6, 2, 5)).astype(np.float32)


def part(views: int, key: str = "a1", volume: float = 1.0) -> Part:
    return Part(
        key=key,
        values={"next": views},
        arrays={"volume": np.full((2, 5, 5), volume, np.float32), "center": np.array(2.5)},
        grown={"rows": VIEWS[:views]},
    )


def save(checkpoint: Checkpoint, *parts: Part) -> list[int]:
    alive: list[int] = []
    checkpoint.save({"scan": "x"}, parts, lambda: alive.append(1))
    return alive


def test_what_was_kept_is_there_again(tmp_path: Path) -> None:
    with Checkpoint(tmp_path / "kept") as checkpoint:
        assert checkpoint.load() is None
        assert save(checkpoint, part(2), part(3, "b2", 7.0))
    with Checkpoint(tmp_path / "kept") as checkpoint:
        saved = checkpoint.load()
        assert saved is not None
        assert saved.values == {"scan": "x"}
        first, second = saved.parts
        assert (first.key, second.key) == ("a1", "b2")
        assert second.values == {"next": 3}
        np.testing.assert_array_equal(second.arrays["volume"], np.full((2, 5, 5), 7))
        assert float(second.arrays["center"]) == 2.5
        np.testing.assert_array_equal(second.grown["rows"], VIEWS[:3])


def test_views_are_appended_and_what_is_not_needed_goes(tmp_path: Path) -> None:
    path = tmp_path / "views-a1-rows"
    with Checkpoint(tmp_path) as checkpoint:
        save(checkpoint, part(2))
        inode = path.stat().st_ino
        # what is there is not written again
        with path.open("r+b") as file:
            file.write(b"\xff" * 4)
        save(checkpoint, part(5))
        assert path.stat().st_ino == inode
        assert path.stat().st_size == VIEWS[:5].nbytes
        assert path.read_bytes()[:4] == b"\xff" * 4
        assert path.read_bytes()[4:] == VIEWS[:5].tobytes()[4:]
        save(checkpoint, part(1, "c3"))
        assert sorted(entry.name for entry in tmp_path.iterdir()) == [
            "checkpoint.json",
            "lock",
            "state-3",
            "views-c3-rows",
        ]
        checkpoint.remove()
    assert not tmp_path.exists()


def test_one_that_goes_on_appends_too(tmp_path: Path) -> None:
    with Checkpoint(tmp_path) as checkpoint:
        save(checkpoint, part(2))
    with Checkpoint(tmp_path) as checkpoint:
        checkpoint.load()
        save(checkpoint, part(4))
    with Checkpoint(tmp_path) as checkpoint:
        saved = checkpoint.load()
        assert saved is not None
        np.testing.assert_array_equal(saved.parts[0].grown["rows"], VIEWS[:4])


@pytest.mark.parametrize("name", ["state-1", "views-a1-rows", "checkpoint.json"])
@pytest.mark.parametrize("harm", ["changed", "cut", "removed"])
def test_damage_is_told_and_nothing_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, harm: str
) -> None:
    with Checkpoint(tmp_path) as checkpoint:
        save(checkpoint, part(3))
    path = tmp_path / name
    content = path.read_bytes()
    if harm == "removed":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(
            content.replace(b'"version": 1', b'"version": 9')
            if name.endswith("json")
            else content[:-1] + bytes([content[-1] ^ 1])
        )
    with Checkpoint(tmp_path) as checkpoint:
        assert checkpoint.load() is None
        if (name, harm) == ("checkpoint.json", "removed"):
            assert not caplog.records
        else:
            assert "cannot be used" in caplog.text
        # and another one can be made there
        save(checkpoint, part(4))
    with Checkpoint(tmp_path) as checkpoint:
        saved = checkpoint.load()
        assert saved is not None
        np.testing.assert_array_equal(saved.parts[0].grown["rows"], VIEWS[:4])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"version": 1}',
        b'{"version": 1, "number": 1, "values": {}, "parts": [1]}',
    ],
)
def test_an_index_that_is_none_is_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / "checkpoint.json").write_bytes(content)
    with Checkpoint(tmp_path) as checkpoint:
        assert checkpoint.load() is None
    assert "cannot be used" in caplog.text


def test_names_in_an_index_lead_nowhere_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Checkpoint(tmp_path) as checkpoint:
        save(checkpoint, part(3))
    index = tmp_path / "checkpoint.json"
    content = json.loads(index.read_text())
    content["parts"][0]["key"] = "../../etc"
    index.write_text(json.dumps(content))
    with Checkpoint(tmp_path) as checkpoint:
        assert checkpoint.load() is None
    assert "the key" in caplog.text


def test_whoever_is_killed_while_writing_leaves_the_one_before(tmp_path: Path) -> None:
    """The process ends itself at its n-th sign of life, in the middle of a file; n from first to last."""
    code = """
import os, signal, sys
import numpy as np
from pathlib import Path
from ministream.stages import checkpoint
from ministream.stages.checkpoint import Checkpoint, Part
checkpoint._PIECE_BYTES = 16
left = int(sys.argv[2])
def alive():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
views = np.arange(40, dtype=np.float32).reshape(10, 4)
def part(count):
    return Part(
        key="k", values={}, arrays={"v": np.full(8, count, np.float32)}, grown={"rows": views[:count]}
    )
with Checkpoint(Path(sys.argv[1])) as one:
    one.save({"count": 3}, [part(3)], lambda: None)
    one.save({"count": 7}, [part(7)], alive)
"""
    ends = []
    for moment in (1, 4, 6, 99):
        folder = tmp_path / str(moment)
        done = subprocess.run([sys.executable, "-c", code, str(folder), str(moment)], check=False, timeout=60)
        ends.append(done.returncode)
        with Checkpoint(folder) as checkpoint:
            saved = checkpoint.load()
        assert saved is not None
        count = saved.values["count"]
        assert count == (3 if done.returncode else 7)
        np.testing.assert_array_equal(saved.parts[0].arrays["v"], np.full(8, count))
        assert len(saved.parts[0].grown["rows"]) == count
    assert ends[0] == -signal.SIGKILL
    assert ends[-1] == 0


def test_a_folder_has_one_worker(tmp_path: Path) -> None:
    with Checkpoint(tmp_path), pytest.raises(OutputError, match="in use by another worker"):
        Checkpoint(tmp_path)
    with Checkpoint(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        Checkpoint(tmp_path / "file" / "kept")


def test_one_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    """A limit of the file's size stands for the disk's."""
    with Checkpoint(tmp_path) as checkpoint:
        save(checkpoint, part(2))
    code = f"""
import resource, numpy as np
from pathlib import Path
from ministream.errors import OutputError
from ministream.stages.checkpoint import Checkpoint, Part
with Checkpoint(Path({str(tmp_path)!r})) as checkpoint:
    checkpoint.load()
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
    try:
        checkpoint.save({{}}, [Part(key="z", values={{}}, arrays={{"v": np.ones(1 << 20)}}, grown={{}})], int)
    except OutputError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ),
    )
    assert "File too large" in done.stdout
    assert not (tmp_path / "state-2").exists()
    with Checkpoint(tmp_path) as checkpoint:
        saved = checkpoint.load()
        assert saved is not None
        np.testing.assert_array_equal(saved.parts[0].grown["rows"], VIEWS[:2])
