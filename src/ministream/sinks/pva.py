"""A slice of a volume that is being reconstructed, as an EPICS image: pvAccess, NTNDArray.

Image viewers of beamlines show it like a detector's image. There are two PVs:

``NAME``
    The slice, (y, x) float32, dimensions x first. ``uniqueId`` counts the updates. Attributes: ``SliceIndex``
    (in the whole volume), ``Projections`` (that it is made from), ``RotationCenter`` (column index),
    ``SliceBegin`` and ``SliceCount`` (the slices that this worker has).
``NAME:Slice``
    Which slice is wanted, as an index in the whole volume; -1, or one that is not here, for the middle one.

Posting does not wait: of a client that is slow pvAccess replaces what it has not fetched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ministream.errors import ConnectionFailed, InputError

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]


class SliceServer:
    """Serves the PVs. Close it.

    Parameters
    ----------
    name : str
        Of the image's PV.
    interval_s : float
        Least time between two images.

    Raises
    ------
    InputError
        The name cannot be one, or p4p is not installed.
    ConnectionFailed
        The server cannot be started.
    """

    def __init__(self, name: str, *, interval_s: float = 0.2) -> None:
        if not name or any(character.isspace() for character in name):
            raise InputError(f"{name!r} is no name of a PV; 2bm:Recon:Image, for example")
        try:
            from p4p.nt import NTNDArray, NTScalar
            from p4p.server import Server
            from p4p.server.thread import SharedPV
        except ImportError as error:
            raise InputError(
                "slices by EPICS pvAccess need p4p, which is not installed: pip install 'ministream[epics]'"
            ) from error
        self._interval_s = interval_s
        self._posted_s = float("-inf")
        self._count = 0
        self._array_type, self._type = NTNDArray.ntndarray, NTNDArray()
        self._image = SharedPV()
        self._wanted = -1
        self._moved = False
        choice = SharedPV(nt=NTScalar("i"), initial=-1)
        choice.put(self._choose)
        try:
            self._server = Server(providers=[{name: self._image, f"{name}:Slice": choice}])
        except RuntimeError as error:
            raise ConnectionFailed(
                f"the PV {name} cannot be served: {error}; is EPICS_PVAS_SERVER_PORT free, and "
                "EPICS_PVAS_INTF_ADDR_LIST an address of this host?"
            ) from error

    def _choose(self, pv: Any, operation: Any) -> None:
        """Take what a client has put; called in a thread of p4p."""
        value = int(operation.value())
        self._wanted, self._moved = value, True
        pv.post(value)
        operation.done()

    def offer(
        self,
        volumes: Sequence[FloatArray],
        *,
        slice_begin: int,
        projections: Sequence[int],
        rotation_center: float,
        now: bool = False,
    ) -> None:
        """Post the wanted slice, if it is time for an image. Does not wait.

        Parameters
        ----------
        volumes : sequence of (slice, y, x) float32
            In the order of their slices; one slice is copied.
        slice_begin : int
            Where the first slice lies in the whole volume.
        projections : sequence of int
            How many each of the volumes is made from.
        rotation_center : float
            Column index.
        now : bool
            Whether or not it is time.
        """
        if not now and not self._moved and time.monotonic() - self._posted_s < self._interval_s:
            return
        self._posted_s, self._moved = time.monotonic(), False
        count = sum(len(volume) for volume in volumes)
        index = self._wanted - slice_begin
        if not 0 <= index < count:
            index = count // 2
        place = index
        for volume, made_from in zip(volumes, projections, strict=True):
            if place < len(volume):
                # pvAccess may still send what it was given when the next update changes the volume
                self._post(
                    volume[place].copy(),
                    {
                        "SliceIndex": slice_begin + index,
                        "Projections": int(made_from),
                        "RotationCenter": float(rotation_center),
                        "SliceBegin": slice_begin,
                        "SliceCount": count,
                    },
                )
                return
            place -= len(volume)

    def _post(self, pixels: FloatArray, attributes: dict[str, int | float]) -> None:
        image = pixels.view(self._array_type)
        image.attrib = attributes
        value = self._type.wrap(image)
        self._count += 1
        value["uniqueId"] = self._count
        now_s = time.time()
        for stamp in ("timeStamp", "dataTimeStamp"):
            value[f"{stamp}.secondsPastEpoch"] = int(now_s)
            value[f"{stamp}.nanoseconds"] = int(now_s % 1 * 1e9)
        if self._image.isOpen():
            self._image.post(value)
        else:
            self._image.open(value)

    def close(self) -> None:
        """Stop serving."""
        self._server.stop()
