"""Our own Python for the first process of any image: what of it a container is given, and how it starts.

No image has to have a Python: what is mounted is the interpreter's file, its standard library, and the
folders of the shared libraries that it loads, loader included; the loader is told where they are (ld.so(8)).
All is read-only, and as readable by everybody here as there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from scistream.dataserver.containers import first_process
from scistream.errors import DataServerError

ROOT = PurePosixPath("/.scistream")
"""Where in the container all that is ours lies, but for the session's folder."""
_LIMIT_S = 10.0
_ISOLATED = ("-I", "-S", "-B")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """How a container runs `first_process`.

    Parameters
    ----------
    mounts : mapping
        What is mounted where: this machine's files and folders, by their paths in the container.
    command : tuple of str
        What starts the interpreter there.
    script : str
        Its `first_process`, in the container.
    """

    mounts: Mapping[str, str]
    command: tuple[str, ...]
    script: str

    @classmethod
    def of_this_process(cls) -> Interpreter:
        """Return that of the interpreter which runs this.

        Raises
        ------
        DataServerError
            It does not say what it needs.
        """
        file, script = str(Path(first_process.__file__).resolve()), str(ROOT / "first_process.py")
        try:
            said = subprocess.run(
                [sys.executable, *_ISOLATED, file, "--files"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_LIMIT_S,
                check=True,
            ).stdout
            files = json.loads(said)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise DataServerError(f"{sys.executable} does not run in containers: {error}") from error
        library = Path(sysconfig.get_path("stdlib"))
        # as beside each other as here: by that the interpreter finds its library
        executable = ROOT / "bin" / Path(files["executable"]).name
        mounts = {
            str(executable): files["executable"],
            str(ROOT / library.parent.name / library.name): str(library),
            script: file,
        }
        command: tuple[str, ...] = (str(executable), *_ISOLATED)
        if not files["loader"]:  # it is linked with all it needs
            return cls(mounts, command, script)
        inside: dict[Path, PurePosixPath] = {}
        for name in [files["loader"], *files["libraries"]]:
            path = Path(name)
            if library not in path.parents and path.parent not in inside:
                inside[path.parent] = ROOT / "libraries" / str(len(inside))
        mounts.update({str(target): str(folder) for folder, target in inside.items()})
        loader = Path(files["loader"])
        search = ":".join(map(str, inside.values()))
        command = (str(inside[loader.parent] / loader.name), "--library-path", search, *command)
        return cls(mounts, command, script)
