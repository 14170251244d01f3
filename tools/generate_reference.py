"""Write the reference of the programs from the programs themselves: docs/reference/*.md, or manual pages.

Run from anywhere: ``python tools/generate_reference.py``. ``--check`` writes nothing and fails if a page is
stale; ``--man DIR`` writes manual pages (``s2cs.1``, ``s2cs-start.1``, …) instead. The Markdown is committed;
manual pages are for who packages the programs.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from importlib import import_module, metadata
from pathlib import Path

import click

from scistream.cli.variables import name_variables

TARGET = Path(__file__).resolve().parents[1] / "docs" / "reference"

#: program -> module with the command of that name, module with its exit codes
PROGRAMS = {
    "s2cs": ("scistream.cli.s2cs", "scistream.cli.exit_codes"),
    "s2uc": ("scistream.cli.s2uc.main", "scistream.cli.exit_codes"),
    "appctrl": ("scistream.cli.appctrl", "scistream.cli.exit_codes"),
    "s2ds": ("scistream.cli.s2ds", "scistream.cli.exit_codes"),
    "ministream": ("ministream.cli.main", "ministream.cli.exit_codes"),
}
#: Options of which no environment variable makes sense.
_NO_ENVIRONMENT = {"_click_default_help", "version"}
#: What needs no explanation where it is defined.
_PLAIN_CODES = {"OK": "Success.", "USAGE": "Options or arguments that do not exist or do not fit together."}


@dataclass(frozen=True)
class Option:
    """One option: how it is written, what it does, which environment variable it has."""

    names: str
    text: str
    variable: str


@dataclass(frozen=True)
class Text:
    """A paragraph of the description, or lines to be shown as they are."""

    text: str
    verbatim: bool


@dataclass
class Page:
    """What there is to say of one command."""

    path: str
    usage: str
    description: list[Text]
    options: list[Option] = field(default_factory=list)
    commands: list[tuple[str, str]] = field(default_factory=list)
    same_as: str = ""

    @property
    def summary(self) -> str:
        """The first sentence of the description."""
        return self.description[0].text.partition(". ")[0].rstrip(".:") if self.description else ""


def pages(program: str) -> list[Page]:
    """Return the pages of `program` and of all its subcommands, in the order of its help."""
    command: click.Command = getattr(import_module(PROGRAMS[program][0]), program)
    prefix = program.upper().replace("-", "_")
    if program != "ministream":  # whose variables are click's own
        name_variables(command, prefix)
    context = click.Context(command, info_name=program, auto_envvar_prefix=prefix, **command.context_settings)
    return list(_walk(context, {}))


def _walk(context: click.Context, seen: dict[int, str]) -> Iterator[Page]:
    command, path = context.command, context.command_path
    page = Page(
        path=path,
        usage=" ".join([path, *command.collect_usage_pieces(context)]),
        description=_paragraphs(command.help or ""),
        same_as=seen.get(id(command), ""),
    )
    seen.setdefault(id(command), path)
    if page.same_as:
        yield page
        return
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None and not getattr(parameter, "hidden", False):
            page.options.append(Option(record[0], " ".join(record[1].split()), _variable(parameter, context)))
    if not isinstance(command, click.Group):
        yield page
        return
    children = []
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        if child is not None and not child.hidden:
            children.append(click.Context(child, info_name=name, parent=context, **child.context_settings))
    below = [list(_walk(child, seen)) for child in children]
    page.commands = [(one[0].path, one[0].summary) for one in below]
    yield page
    for one in below:
        yield from one


def _variable(option: click.Option, context: click.Context) -> str:
    """Return the environment variable of `option`; empty where none makes sense."""
    name = str(option.name)
    if name in _NO_ENVIRONMENT:
        return ""
    if option.envvar is None:
        return f"{context.auto_envvar_prefix}_{name.upper()}"
    return option.envvar if isinstance(option.envvar, str) else option.envvar[0]


def _paragraphs(text: str) -> list[Text]:
    r"""Split a help text; what click shows as it is (after a line ``\b``) is verbatim."""
    found = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text).partition("\f")[0].strip()):
        verbatim = block.startswith("\b")
        content = block.removeprefix("\b").strip("\n") if verbatim else " ".join(block.split())
        if content:
            found.append(Text(content, verbatim))
    return found


def exit_codes(module_name: str) -> list[tuple[int, str]]:
    """Return code and meaning of every exit code: the strings under the members of ``ExitCode``."""
    module = import_module(module_name)
    codes: type[IntEnum] = module.ExitCode
    tree = ast.parse(inspect.getsource(codes)).body[0]
    assert isinstance(tree, ast.ClassDef)
    texts: dict[str, str] = {}
    for statement, following in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            texts[statement.targets[0].id] = " ".join(str(following.value.value).split()) if is_text else ""
    return [(int(code), texts[code.name] or _PLAIN_CODES[code.name]) for code in codes]


# --- Markdown ------------------------------------------------------------------------------------------


def markdown(program: str) -> str:
    """Return the page of `program` in docs/reference."""
    lines = ["<!-- by tools/generate_reference.py: do not edit -->", ""]
    for page in pages(program):
        lines += [f"{'#' if page.path == program else '##'} {page.path}", ""]
        if page.same_as:
            lines += [f"The same as [{page.same_as}](#{page.same_as.replace(' ', '-')}).", ""]
            continue
        for paragraph in page.description:
            if paragraph.verbatim:
                lines += ["```text", paragraph.text, "```", ""]
            else:
                lines += [_escaped(paragraph.text), ""]
        lines += ["```text", page.usage, "```", ""]
        if page.commands:
            lines += ["| command | |", "|---|---|"]
            lines += [
                f"| [`{path}`](#{path.replace(' ', '-')}) | {_escaped(summary)} |"
                for path, summary in page.commands
            ]
            lines.append("")
        if page.options:
            lines += ["| option | | environment |", "|---|---|---|"]
            lines += [
                f"| `{one.names.replace('|', chr(92) + '|')}` | {_escaped(one.text)} "
                f"| {f'`{one.variable}`' if one.variable else ''} |"
                for one in page.options
            ]
            lines.append("")
    lines += ["## Exit codes", "", "| code | |", "|---|---|"]
    lines += [f"| {code} | {_escaped(text)} |" for code, text in exit_codes(PROGRAMS[program][1])]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    # what looks like an HTML element would vanish, a bar would end the cell
    text = text.replace("``", "`")
    return re.sub(r"([<|*_])", r"\\\1", text)


# --- manual pages --------------------------------------------------------------------------------------


def manual(page: Page, program: str) -> str:
    """Return `page` as a manual page of section 1, in roff with the man macros."""
    title = page.path.replace(" ", "-")
    version = metadata.version("ministream")
    lines = [
        f'.TH "{_roff(title.upper())}" 1 "" "ministream {_roff(version)}" "SciStream"',
        ".SH NAME",
        f"{_roff(title)} \\- {_roff(page.summary)}",
        ".SH SYNOPSIS",
        f".B {_roff(page.usage)}",
        ".SH DESCRIPTION",
    ]
    for paragraph in page.description:
        if paragraph.verbatim:
            lines += [".PP", ".nf", *map(_roff, paragraph.text.splitlines()), ".fi"]
        else:
            lines += [".PP", _roff(paragraph.text)]
    if page.commands:
        lines.append(".SH COMMANDS")
        for path, summary in page.commands:
            lines += [".TP", f".B {_roff(path)}", _roff(summary) or "\\&"]
    if page.options:
        lines.append(".SH OPTIONS")
        for one in page.options:
            variable = f" Environment: {one.variable}." if one.variable else ""
            lines += [".TP", f".B {_roff(one.names)}", _roff(one.text + variable)]
    lines.append(".SH EXIT STATUS")
    for code, text in exit_codes(PROGRAMS[program][1]):
        lines += [".TP", f".B {code}", _roff(text)]
    if page.path != program:
        lines += [".SH SEE ALSO", f".BR {_roff(program)} (1)"]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    """Return `text` so that roff shows it as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace('"', "\\(dq")
    text = "".join(one if one.isascii() else f"\\[u{ord(one):04X}]" for one in text)
    return f"\\&{text}" if text.startswith((".", " ")) else text


# --- running -------------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    """Write the reference; return 0, or 1 where ``--check`` finds a stale page."""
    if arguments[:1] == ["--man"] and len(arguments) == 2:
        directory = Path(arguments[1])
        files = {
            f"{page.path.replace(' ', '-')}.1": manual(page, program)
            for program in PROGRAMS
            for page in pages(program)
            if not page.same_as
        }
    elif arguments in ([], ["--check"]):
        directory = TARGET
        files = {f"{program}.md": markdown(program) for program in PROGRAMS}
    else:
        print(__doc__, file=sys.stderr)
        return 2
    if arguments == ["--check"]:
        present = {path.name: path.read_text(encoding="utf-8") for path in directory.glob("*.md")}
        stale = sorted(name for name in files.keys() | present if files.get(name) != present.get(name))
        if stale:
            print(f"stale in docs/reference: {', '.join(stale)}; run python tools/generate_reference.py")
        return int(bool(stale))
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
