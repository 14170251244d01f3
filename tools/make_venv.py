"""Make a virtual environment with a current pip, on any Linux with Python 3.11 or newer.

Debian and Ubuntu ship `venv` without `ensurepip` unless the package python3-venv is installed; then the
environment is made without pip, and pip's wheel is fetched from the package index and checked against the
index's SHA-256. Standard library only. Usage: ``python3 tools/make_venv.py .venv``.
"""

from __future__ import annotations

import hashlib
import html.parser
import importlib.util
import os
import re
import subprocess
import sys
import urllib.parse
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
    page = f"{INDEX}/pip/"
    request = urllib.request.Request(page, headers={"Accept": "text/html"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        links = LinkReader(answer.read().decode())
    if not links.wheels:
        sys.exit(f"make_venv: {page} lists no pip; install python3-venv, or set PIP_INDEX_URL")
    link = urllib.parse.urljoin(page, links.wheels[max(links.wheels)])
    url, _, fragment = link.partition("#")
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        content = answer.read()
    if fragment != f"sha256={hashlib.sha256(content).hexdigest()}":
        sys.exit(f"make_venv: {url} does not have the hash that the index states")
    path = directory / url.rpartition("/")[2]
    path.write_bytes(content)
    return path


class LinkReader(html.parser.HTMLParser):
    """The stable pip wheels of a page of the package index (PEP 503): version -> link."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.wheels: dict[tuple[int, ...], str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of a link."""
        link = dict(attrs).get("href") or ""
        match = re.search(r"/pip-(\d+(?:\.\d+)+)-py3-none-any\.whl#", link)
        if tag == "a" and match and "data-yanked" not in dict(attrs):
            self.wheels[tuple(map(int, match[1].split(".")))] = link


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - it is here for those who have an older one
        sys.exit("make_venv: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11")
    if len(sys.argv) != 2:
        sys.exit("usage: python3 tools/make_venv.py DIRECTORY")
    main(Path(sys.argv[1]))
