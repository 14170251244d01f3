"""The process that `TreeBackend` starts: a supervisor that serves the control socket it inherited."""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scistream.dataserver.tree.messages import MessageSocket
from scistream.dataserver.tree.supervisor import Supervisor
from scistream.dataserver.tree.work import Work
from scistream.errors import SciStreamError


def main(kind: str, make_work: Callable[[Mapping[str, Any]], Work]) -> int:
    """Serve until there is nobody to serve.

    Parameters
    ----------
    kind : str
        Name of the kind of data servers.
    make_work : callable
        Returns what the workers do, from the backend's settings.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m scistream.dataserver.{kind}",
        description=f"The processes of the {kind} data server; s2cs and s2ds start them.",
    )
    parser.add_argument(
        "--control-fd",
        type=int,
        required=True,
        help="inherited SOCK_SEQPACKET socket; what is above is closed",
    )
    parser.add_argument(
        "--directory", type=Path, default=None, help="outlive the control server; be found there"
    )
    parser.add_argument("--settings", type=json.loads, default={}, help="the backend's settings, in JSON")
    parser.add_argument("--log-level", type=int, default=logging.WARNING)
    arguments = parser.parse_args()
    logging.getLogger().setLevel(arguments.log_level)
    # what the control server's libraries let us inherit would stay open when that process is gone
    os.closerange(arguments.control_fd + 1, os.sysconf("SC_OPEN_MAX"))
    control = socket.socket(fileno=arguments.control_fd)
    if arguments.directory is not None:
        # standard output and error are the control server's, and may end or block when it is gone
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
    try:
        work = make_work(arguments.settings)
        work.directory = arguments.directory
        supervisor = Supervisor(
            control,
            work,
            {"kind": kind, **arguments.settings},
            arguments.directory,
        )
    except SciStreamError as error:
        MessageSocket(control).send({"event": "died", "reason": str(error)})
        return 1
    return 0 if supervisor.run() else 1
