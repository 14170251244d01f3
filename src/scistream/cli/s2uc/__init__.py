"""The command ``s2uc``: opens, shows and ends streaming sessions for their user."""

from scistream.cli.s2uc.main import main, s2uc

__all__ = ["main", "s2uc"]
