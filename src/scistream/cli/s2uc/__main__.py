"""``python -m scistream.cli.s2uc``."""

from scistream.cli.s2uc import main

main()
