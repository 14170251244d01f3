"""Make a virtual environment with a current pip, on any Linux with Python 3.11 or newer.

Debian and Ubuntu ship `venv` without `ensurepip` unless the package python3-venv is installed; then the
environment is made without pip, and pip's wheel is fetched from the package index and checked against the
index's SHA-256. Standard library only. Usage: ``python3 tools/make_venv.py .venv``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import urllib.request
import venv
from pathlib import Path

INDEX = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
TIMEOUT_S = 60


def main(directory: Path) -> None:
    """Create `directory` as a virtual environment that has pip."""
    has_ensurepip = importlib.util.find_spec("ensurepip") is not None
    venv.EnvBuilder(with_pip=has_ensurepip, clear=True, symlinks=True).create(directory)
    python = directory / "bin" / "python"
    if has_ensurepip:
        install = [str(python), "-m", "pip", "install", "--quiet", "--upgrade", "pip"]
    else:
        wheel = fetch_pip(directory)
        install = [str(python), f"{wheel}/pip", "install", "--quiet", "--no-index", str(wheel)]
    subprocess.run(install, check=True)


def fetch_pip(directory: Path) -> Path:
    """Download the newest stable pip wheel into `directory` and return its path."""
    request = urllib.request.Request(
        f"{INDEX}/pip/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        files = json.load(answer)["files"]
    wheels = {
        tuple(map(int, match[1].split("."))): file
        for file in files
        if (match := re.fullmatch(r"pip-(\d+(?:\.\d+)+)-py3-none-any\.whl", file["filename"]))
        and not file.get("yanked")
    }
    newest = wheels[max(wheels)]
    with urllib.request.urlopen(newest["url"], timeout=TIMEOUT_S) as answer:
        content = answer.read()
    if hashlib.sha256(content).hexdigest() != newest["hashes"]["sha256"]:
        sys.exit(f"make_venv: {newest['url']} does not have the hash that the index states")
    path = directory / newest["filename"]
    path.write_bytes(content)
    return path


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - it is here for those who have an older one
        sys.exit("make_venv: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11")
    if len(sys.argv) != 2:
        sys.exit("usage: python3 tools/make_venv.py DIRECTORY")
    main(Path(sys.argv[1]))
