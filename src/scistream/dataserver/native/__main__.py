"""The process that `NativeBackend` starts: a supervisor that serves the control socket it inherited."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from pathlib import Path

from scistream.dataserver.native.messages import MessageSocket
from scistream.dataserver.native.supervisor import Supervisor
from scistream.dataserver.native.tls import ENGINES
from scistream.dataserver.native.worker import WorkerOptions
from scistream.errors import SciStreamError


def main() -> int:
    """Serve until there is nobody to serve."""
    parser = argparse.ArgumentParser(prog="python -m scistream.dataserver.native", description=__doc__)
    parser.add_argument(
        "--control-fd",
        type=int,
        required=True,
        help="inherited SOCK_SEQPACKET socket; what is above is closed",
    )
    parser.add_argument(
        "--directory", type=Path, default=None, help="outlive the control server; be found there"
    )
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--congestion-lan", default=None)
    parser.add_argument("--congestion-wan", default=None)
    parser.add_argument("--tls-engine", choices=ENGINES, default=None)
    parser.add_argument("--log-level", type=int, default=logging.WARNING)
    arguments = parser.parse_args()
    logging.getLogger().setLevel(arguments.log_level)
    options = WorkerOptions(
        congestion_lan=arguments.congestion_lan,
        congestion_wan=arguments.congestion_wan,
        tls_engine=arguments.tls_engine,
    )
    # what the control server's libraries let us inherit would stay open when that process is gone
    os.closerange(arguments.control_fd + 1, os.sysconf("SC_OPEN_MAX"))
    control = socket.socket(fileno=arguments.control_fd)
    if arguments.directory is not None:
        # standard output and error are the control server's, and may end or block when it is gone
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
    try:
        supervisor = Supervisor(control, arguments.workers, options, arguments.directory)
    except SciStreamError as error:
        MessageSocket(control).send({"event": "died", "reason": str(error)})
        return 1
    return 0 if supervisor.run() else 1


if __name__ == "__main__":
    sys.exit(main())
