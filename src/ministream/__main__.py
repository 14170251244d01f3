"""``python -m ministream`` is the command ``ministream``."""

from ministream.cli.main import main

if __name__ == "__main__":
    main()
