"""Configuration files from Jinja2 templates, and the folders they are written to.

Every value that a template inserts passes the program's own escaping (Jinja2's ``finalize``): none can be
forgotten, and none can end its word, its line or its string. Folders are closed to other users.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2

from scistream.errors import DataServerError

logger = logging.getLogger(__name__)


class Template:
    """One template file.

    Parameters
    ----------
    path : Path
        The file.
    escape : callable
        Returns a text as one word of the program's configuration language.
    """

    def __init__(self, path: Path, escape: Callable[[str], str]) -> None:
        environment = jinja2.Environment(
            autoescape=False,  # noqa: S701 - it would escape for HTML; `finalize` escapes for the program
            undefined=jinja2.StrictUndefined,
            finalize=lambda value: escape(str(value)),
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self._template = environment.from_string(path.read_text(encoding="utf-8"))

    def render(self, **values: Any) -> bytes:
        """Return the configuration."""
        return self._template.render(**values).encode()


def refuse_control_characters(text: str) -> str:
    """Return `text`, which has only printable characters.

    Raises
    ------
    DataServerError
        It has others, which no configuration file can hold.
    """
    if not text.isprintable():
        raise DataServerError(f"{text!r} holds characters that cannot stand in a configuration")
    return text


class SessionFolder:
    """Where a session's program runs.

    ::

        PATH/N.conf, PATH/N/    a configuration and the files that it names; N = 1, 2, ..., the last one stays
        PATH/current.conf       the same file as that one; no link, which some programs follow once for all

    Raises
    ------
    DataServerError
        It cannot be made.
    """

    CURRENT = "current.conf"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number = 0
        self._current = ""
        try:
            if path.exists():
                shutil.rmtree(path)  # what a killed worker has left
            path.mkdir(mode=0o700)
        except OSError as error:
            raise _not_written(path, error) from error

    def new(self) -> str:
        """Return the name of one more configuration."""
        self._number += 1
        return str(self._number)

    @staticmethod
    def file_of(name: str) -> str:
        """Return the name of a configuration's file."""
        return f"{name}.conf"

    def write(self, name: str, configuration: bytes, files: Mapping[str, bytes]) -> None:
        """Write a configuration and the files that it names, mode 0600.

        Raises
        ------
        DataServerError
            The disk is full, or forbids it.
        """
        folder = self.path / name
        paths = {folder / file: content for file, content in files.items()}
        paths[self.path / self.file_of(name)] = configuration
        try:
            folder.mkdir(mode=0o700)
            for path, content in paths.items():
                with open(path, "xb", opener=_open_private) as file:
                    file.write(content)
        except OSError as error:
            raise _not_written(folder, error) from error

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Let `CURRENT` be that configuration; if what is done then fails, the one before."""
        self._use(name)
        try:
            yield
        except BaseException:
            if self._current:
                self._use(self._current)
            raise
        self._current = name

    def _use(self, name: str) -> None:
        link = self.path / "next"
        link.hardlink_to(self.path / self.file_of(name))
        link.replace(self.path / self.CURRENT)

    def keep_only(self, name: str) -> None:
        """Remove all configurations but this one: programs have read them."""
        for folder in self.path.iterdir():
            if folder.name.isdecimal() and folder.name != name:
                self.remove(folder.name)

    def remove(self, name: str) -> None:
        """Remove a configuration."""
        (self.path / self.file_of(name)).unlink(missing_ok=True)
        remove_folder(self.path / name)

    def close(self) -> None:
        """Remove everything."""
        remove_folder(self.path)


def remove_folder(path: Path) -> None:
    """Remove a folder with what is in it, if it is there; a warning says what stays."""
    while path.exists():
        try:
            shutil.rmtree(path)
        except FileNotFoundError:  # somebody else removes it as well
            continue
        except OSError as error:
            logger.warning("%s stays, perhaps with a key: %s", error.filename or path, error.strerror)
            return


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _not_written(path: Path, error: OSError) -> DataServerError:
    return DataServerError(f"{error.filename or path} cannot be written: {error.strerror}")
