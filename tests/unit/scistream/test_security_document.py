"""docs/security.md: what it says is stopped has a test, the tests are there, the table knows every attack."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from support.attacks import AttackTable

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / "docs" / "security.md"
TESTS = ROOT / "tests"
_REFERENCE = re.compile(r"`([\w/]+\.py)::(\w+)`")


def functions(path: Path) -> dict[str, list[ast.expr]]:
    """Return the tests of a file and their decorators."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name: node.decorator_list
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_test_that_is_named_is_there() -> None:
    named = _REFERENCE.findall(DOCUMENT.read_text(encoding="utf-8"))
    assert len(named) > 30
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (TESTS / file).is_file() or name not in functions(TESTS / file)
    ]
    assert missing == []


def test_every_line_that_says_stopped_names_its_test() -> None:
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    stopped = [row for row in rows if re.search(r"\|\s*stopped", row)]
    assert len(stopped) > 20
    assert [row for row in stopped if not _REFERENCE.search(row)] == []


def test_the_table_has_every_attack_that_a_test_tries() -> None:
    table = DOCUMENT.read_text(encoding="utf-8").partition("<!-- begin attacks -->")[2]
    table = table.partition("<!-- end attacks -->")[0]
    assert "FAILED" not in table
    tried = [
        str(decorator.args[0].value)
        for path in TESTS.rglob("test_*.py")
        for decorators in functions(path).values()
        for decorator in decorators
        if isinstance(decorator, ast.Call)
        and ast.unparse(decorator.func) == "pytest.mark.attack"
        and isinstance(decorator.args[0], ast.Constant)
    ]
    assert len(tried) > 10
    absent = [what for what in tried if re.sub(r"\{\w+\}.*", "", what) not in table]
    assert absent == [], "run: make attacks"


def test_the_worst_of_several_tests_is_shown(tmp_path: Path) -> None:
    table = AttackTable(
        {
            ("stolen", "globus"): ["refused", "refused"],
            ("stolen", "any"): ["refused", "FAILED", "not run"],
            ("forged", "oidc"): ["refused", "not run"],
        }
    )
    path = tmp_path / "security.md"
    path.write_text("a\n<!-- begin attacks -->\nold\n<!-- end attacks -->\nb\n")
    table.write(path)
    assert path.read_text() == (
        "a\n<!-- begin attacks -->\n"
        "| attack | globus | oidc | whichever |\n|---|---|---|---|\n"
        "| forged |  | not run |  |\n| stolen | refused |  | FAILED |\n"
        "<!-- end attacks -->\nb\n"
    )
    (tmp_path / "other.md").write_text("")
    with pytest.raises(ValueError, match="has no"):
        table.write(tmp_path / "other.md")
