"""Configurations: no value gets out of its word, no file is for others, none is left."""

from __future__ import annotations

import stat
from pathlib import Path

import jinja2
import pytest

from scistream.dataserver.programs.render import SessionFolder, Template, refuse_control_characters
from scistream.errors import DataServerError


def _template(folder: Path, text: str) -> Template:
    path = folder / "a.j2"
    path.write_text(text)
    return Template(path, lambda value: f"<{value}>")


def test_every_value_is_escaped_wherever_it_stands(tmp_path: Path) -> None:
    template = _template(tmp_path, "{% for one in many %}\na {{ one }} b\n{% endfor %}\n{{ number }}\n")
    assert template.render(many=["x", "y"], number=1) == b"a <x> b\na <y> b\n<1>\n"


def test_a_value_is_never_a_template(tmp_path: Path) -> None:
    assert _template(tmp_path, "{{ a }}").render(a="{{ 7 * 7 }}") == b"<{{ 7 * 7 }}>"


def test_a_value_that_is_not_given_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(jinja2.UndefinedError):
        _template(tmp_path, "{{ nothing }}").render()


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\0b", "\x1b[0m", "a\tb", "\u2028"])
def test_what_could_end_a_line_is_refused(text: str) -> None:
    with pytest.raises(DataServerError, match="cannot stand in a configuration"):
        refuse_control_characters(text)


def test_files_are_for_this_user_only_and_only_the_last_configuration_stays(tmp_path: Path) -> None:
    folder = SessionFolder(tmp_path / "1")
    for number in (1, 2):
        name = folder.new()
        folder.write(name, b"configuration %d" % number, {"own.pem": b"key %d" % number})
        with folder.using(name):
            pass
        folder.keep_only(name)
    assert sorted(path.name for path in folder.path.iterdir()) == ["2", "2.conf", "current.conf"]
    assert (folder.path / folder.CURRENT).read_bytes() == b"configuration 2"
    assert (folder.path / "2" / "own.pem").read_bytes() == b"key 2"
    for path in (folder.path, *folder.path.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    folder.close()
    assert not folder.path.exists()


def test_a_configuration_that_does_not_work_gives_way_to_the_one_before(tmp_path: Path) -> None:
    folder = SessionFolder(tmp_path / "1")
    first, second = folder.new(), folder.new()
    folder.write(first, b"first", {})
    folder.write(second, b"second", {})
    with folder.using(first):
        pass

    def fail() -> None:
        with folder.using(second):
            assert (folder.path / folder.CURRENT).read_bytes() == b"second"
            raise DataServerError("no")

    with pytest.raises(DataServerError, match="no"):
        fail()
    assert (folder.path / folder.CURRENT).read_bytes() == b"first"


def test_a_file_is_never_written_over_one_that_is_there(tmp_path: Path) -> None:
    folder = SessionFolder(tmp_path / "1")
    (folder.path / "1.conf").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataServerError, match="cannot be written"):
        folder.write(folder.new(), b"x", {})
    assert not (tmp_path / "elsewhere").exists()


def test_what_a_killed_worker_has_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "1" / "1").mkdir(parents=True)
    (tmp_path / "1" / "1" / "own.pem").write_text("key")
    assert list(SessionFolder(tmp_path / "1").path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataServerError, match="nothing/1 cannot be written: No such file"):
        SessionFolder(tmp_path / "nothing" / "1")
