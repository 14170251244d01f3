"""``python -m scistream.cli.s2uc``."""

from scistream.cli.s2uc.main import main

main()
