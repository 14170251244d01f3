"""What of this Python a container is given."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from scistream.dataserver.containers.interpreter import ROOT, Interpreter


def test_it_starts_from_nothing_but_what_is_mounted(tmp_path: Path) -> None:
    """The same files under another root, as links; the command's paths lead there."""
    interpreter = Interpreter.of_this_process()
    for target, source in interpreter.mounts.items():
        assert Path(source).is_absolute()
        link = tmp_path / target.removeprefix("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        if Path(source).is_dir() or "bin" not in link.parts:
            link.symlink_to(source)
        else:
            os.link(source, link)  # by its own path it finds its library
    command = [
        part.replace(f"{ROOT}/", f"{tmp_path}{ROOT}/")
        for part in (*interpreter.command, "-c", "import sys, socket; print(sys.prefix, socket.__file__)")
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env={}).stdout
    prefix, module = said.split()
    assert Path(prefix) == Path(f"{tmp_path}{ROOT}")
    assert module.startswith(prefix)
