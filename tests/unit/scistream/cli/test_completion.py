"""Completion, asked for as a shell does: by the real bash and the real programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scistream.cli.appctrl import appctrl
from scistream.cli.s2cs import s2cs
from scistream.cli.s2ds import s2ds
from support.programs import Run

PROGRAMS = Path(sys.executable).parent
BASH = shutil.which("bash") or pytest.skip("bash is not installed", allow_module_level=True)


@pytest.fixture(autouse=True)
def _profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scistream" / "config.toml"
    path.parent.mkdir()
    path.write_text("".join(f"[facilities.{name}]\naddress = 'x:1'\n" for name in ("aps", "alcf", "other")))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def completed(program: str, *words: str) -> list[str]:
    """What bash offers for the last of `words`."""
    script = f"""
        source <({program} completion bash) || exit 9
        complete -p {program} >/dev/null || exit 8
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _{program}_completion {program}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    finished = subprocess.run(
        [BASH, "--norc", "-c", script, "bash", program, *words],
        env={**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    return finished.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("s2cs", ""), {"start", "cert", "token", "check-policy", "completion"}),
        (("s2cs", "st"), {"start"}),
        (("s2cs", "start", "--on-"), {"--on-terminate"}),
        (("s2cs", "--port", "5000", "--on-"), {"--on-terminate"}),
        (("s2cs", "--on"), {"--on-terminate"}),
        (("s2cs", "--ver"), {"--verbose", "--version"}),
        (("s2cs", "start", "--auth", ""), {"globus", "mtls", "none", "oidc", "shared-key"}),
        (("s2uc", "prod_r"), {"prod_req"}),
        (("s2uc", "prod_req", "--num_"), {"--num_conn"}),
        (("s2uc", "release", "uid", "--s2cs", "a"), {"aps", "alcf"}),
        (("appctrl", "run", "--s2cs", "al"), {"alcf"}),
        (("s2uc", "request", "aps", "al"), {"alcf"}),
        (("s2uc", "update", "uid", "--s2cs", "al"), {"alcf"}),
        (("s2cs", "start", "--on-terminate", ""), {"drain", "keep", "release"}),
        (("appctrl", ""), {"hello", "register", "run", "mock", "create-appctrl", "completion"}),
        (("appctrl", "run", "--rol"), {"--role"}),
        (("appctrl", "run", "--role", "P"), {"PROD"}),
        (("s2ds", "f"), {"forward"}),
        (("s2ds", "completion", ""), {"bash", "zsh", "fish"}),
    ],
)
def test_bash_completes_subcommands_options_and_their_values(
    words: tuple[str, ...], offered: set[str]
) -> None:
    assert set(completed(*words)) == offered


def test_the_shell_is_the_one_in_use_unless_it_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/zsh")
    assert "#compdef s2cs" in run(s2cs, "completion", name="s2cs")[1]
    assert "complete --no-files --command s2ds" in run(s2ds, "completion", "fish", name="s2ds")[1]
    monkeypatch.setenv("SHELL", "/bin/nologin")
    code, out, err = run(appctrl, "completion", name="appctrl")
    assert (code, out) == (3, "")
    assert "nologin" in err
    assert "bash, zsh, fish" in err


def test_the_help_says_how_to_install_it(run: Run) -> None:
    assert "source <(PROGRAM completion bash)" in run(s2cs, "completion", "--help", name="s2cs")[1]
