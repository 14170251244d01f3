"""The process that `NativeBackend` starts: a supervisor that serves the control socket it inherited."""

from __future__ import annotations

import argparse
import logging
import socket
import sys

from scistream.dataserver.native.supervisor import Supervisor
from scistream.dataserver.native.tls import ENGINES
from scistream.dataserver.native.worker import WorkerOptions


def main() -> int:
    """Serve until the other end of the control socket closes."""
    parser = argparse.ArgumentParser(prog="python -m scistream.dataserver.native", description=__doc__)
    parser.add_argument("--control-fd", type=int, required=True, help="inherited SOCK_SEQPACKET socket")
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--congestion-lan", default=None)
    parser.add_argument("--congestion-wan", default=None)
    parser.add_argument("--tls-engine", choices=ENGINES, default=None)
    parser.add_argument("--log-level", type=int, default=logging.WARNING)
    arguments = parser.parse_args()
    logging.basicConfig(
        level=arguments.log_level, format="%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s"
    )
    options = WorkerOptions(
        congestion_lan=arguments.congestion_lan,
        congestion_wan=arguments.congestion_wan,
        tls_engine=arguments.tls_engine,
    )
    control = socket.socket(fileno=arguments.control_fd)
    return 0 if Supervisor(control, arguments.workers, options).run() else 1


if __name__ == "__main__":
    sys.exit(main())
