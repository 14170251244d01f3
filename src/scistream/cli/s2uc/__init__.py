"""The command ``s2uc``: opens, shows and ends streaming sessions for their user."""

from typing import NoReturn

from scistream.cli.early import load_and_run


def main() -> NoReturn:
    """Run the command line."""
    load_and_run("scistream.cli.s2uc.main")
