"""The native data server beside haproxy, nginx and stunnel, in one run: ``ministream bench relay``.

    python benchmarks/relay.py [--quick] [--json FILE] [--plot FILE] [--markdown docs/performance.md]

`scistream.bench` is what measures; ``--help`` says how.
"""

from ministream.cli.main import ministream
from ministream.cli.options import run_program

if __name__ == "__main__":
    import sys

    run_program(ministream, "ministream", ["bench", "relay", *sys.argv[1:]])
