"""Detectors that publish by EPICS pvAccess on loopback: p4p's server, and pvapy as an independent one.

Both run as processes of their own, as an IOC does: pvapy and p4p bring libraries of the same names.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import closing
from typing import Any

PRELUDE = "import sys, json, time, numpy as np\ndef tell(**what):\n    print(json.dumps(what), flush=True)\n"

P4P = (
    PRELUDE
    + """
from p4p import Value
from p4p.nt import NTNDArray
from p4p.server import Server
from p4p.server.thread import SharedPV
nt = NTNDArray()
pv = SharedPV()
server = Server(providers=[{sys.argv[1]: pv}])
def post(pixels, number, codec=None, like=None, **attributes):
    frame = np.asarray(pixels).view(NTNDArray.ntndarray)
    frame.attrib = attributes
    value = nt.wrap(frame)
    value["uniqueId"] = number
    if codec is not None:
        value["codec.name"], value["codec.parameters"] = codec
        shape = like.shape[::-1]
        value["dimension"] = [
            dict(size=n, offset=0, fullSize=n, binning=1, reverse=False) for n in shape
        ]
        value["compressedSize"], value["uncompressedSize"] = len(pixels), like.nbytes
    if pv.isOpen():
        pv.post(value)
    else:
        pv.open(value)
"""
)

PVAPY = (
    PRELUDE
    + """
import pvaccess as pva
from pvapy.utility.adImageUtility import AdImageUtility as images
server = pva.PvaServer()
added = False
def post(pixels, number, **attributes):
    global added
    image = images.generateNtNdArray2D(number, pixels)
    kinds = {str: pva.PvString, float: pva.PvDouble, int: pva.PvInt}
    image["attribute"] = [
        pva.NtAttribute(name, kinds[type(value)](value)) for name, value in attributes.items()
    ]
    if added:
        server.update(sys.argv[1], image)
    else:
        server.addRecord(sys.argv[1], image)
        server.start()
        added = True
"""
)


def loopback() -> dict[str, str]:
    """Environment variables that keep a server and its clients on loopback, at ports of their own."""
    ports = []
    held = [socket.socket(socket.AF_INET, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
    for one in held:
        with closing(one):
            one.bind(("127.0.0.1", 0))
            ports.append(str(one.getsockname()[1]))
    return {
        "EPICS_PVA_ADDR_LIST": "127.0.0.1",
        "EPICS_PVA_AUTO_ADDR_LIST": "NO",
        "EPICS_PVA_SERVER_PORT": ports[0],
        "EPICS_PVA_BROADCAST_PORT": ports[1],
        "EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1",
        "EPICS_PVAS_SERVER_PORT": ports[0],
        "EPICS_PVAS_BROADCAST_PORT": ports[1],
    }


class DetectorProcess:
    """Runs a script with a server; lines on its standard input let it go on. A context manager.

    Parameters
    ----------
    prelude : str
        `P4P` or `PVAPY`: gives the script ``post(pixels, number, **attributes)``.
    script : str
        May call ``tell(key=value)`` and ``wait()``.
    """

    def __init__(self, prelude: str, script: str, *, name: str = "T:Image") -> None:
        self.name = name
        self.environment = loopback()
        code = prelude + "def wait():\n    return sys.stdin.readline().strip()\n" + script + "\nwait()\n"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.environment},
        )

    def __enter__(self) -> DetectorProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def go_on(self) -> None:
        """Let it pass a `wait`."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def told(self) -> dict[str, Any]:
        """Return what it tells next."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the detector has ended"
        return json.loads(line)  # type: ignore[no-any-return]
