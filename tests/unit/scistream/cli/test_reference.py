"""docs/reference says what the programs say, and manual pages can be made of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
GENERATOR = ROOT / "tools" / "generate_reference.py"


def generate(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, GENERATOR, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_reference_is_not_stale() -> None:
    checked = generate("--check")
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_it_names_options_defaults_environment_and_exit_codes() -> None:
    text = (ROOT / "docs" / "reference" / "s2cs.md").read_text()
    assert "`--hello-timeout-s FLOAT`" in text
    assert "[default: 180" in text
    assert "`S2CS_START_HELLO_TIMEOUT_S`" in text
    assert "| 143 | Ended by SIGTERM, after cleaning up. |" in text


def test_manual_pages_are_valid_and_complete(tmp_path: Path) -> None:
    made = generate("--man", tmp_path)
    assert (made.returncode, made.stderr) == (0, "")
    names = {path.name for path in tmp_path.iterdir()}
    assert {"s2cs.1", "s2cs-start.1", "s2uc.1", "s2uc-request.1", "appctrl-run.1", "s2ds.1"} <= names
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("groff is not installed")
    for path in tmp_path.iterdir():
        shown = subprocess.run(
            [groff, "-man", "-ww", "-Tutf8", "-P-cbou", path],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert shown.stderr == "", path
    text = subprocess.run(
        [groff, "-man", "-rLL=200n", "-Tutf8", "-P-cbou", tmp_path / "s2cs-start.1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert "--on-terminate [release|drain|keep]" in text
    assert "--server_crt server.crt --server_key" in text
