"""What a worker gives away of its slices: to viewers while they grow, to files on the way, and in the end.

Viewers: ZeroMQ (`ministream.stages.broadcast`) and EPICS (`ministream.sinks.SliceServer`). Neither waits for
anybody. Files: the one of the result, which others may read while it is written
(`ministream.sinks.LiveVolume`), and one for each so many updates, as the APS streaming mini-app writes them.
A file on the way that cannot be written is told, and left out; the result's is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ministream.errors import OutputError
from ministream.sinks import (
    DEFAULT_COMPRESSION,
    LiveVolume,
    SliceServer,
    check_writable,
    write_volume,
)
from ministream.stages.blocks import Block
from ministream.stages.broadcast import VolumePublisher
from ministream.transport import LinkKey

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultOptions:
    """Where the slices go.

    Parameters
    ----------
    publish : str
        Where viewers connect.
    publish_every : int or None
        Updates from one published volume to the next; None for half a second.
    publish_pva : str or None
        Name of an EPICS PV for one slice.
    output : Path or None
        HDF5 file for the slices of this worker.
    compression : str
        One of `ministream.sinks.COMPRESSIONS`.
    write_every : int or None
        Projections after which `output` gets the newest state, for others to read; None writes it in the end.
    series : Path or None
        Folder for a file of each `series_every`-th update.
    series_every : int
    series_dataset : str
        Where the volume is in these files.
    """

    publish: str = "tcp://127.0.0.1:0"
    publish_every: int | None = None
    publish_pva: str | None = None
    output: Path | None = None
    compression: str = DEFAULT_COMPRESSION
    write_every: int | None = None
    series: Path | None = None
    series_every: int = 1
    series_dataset: str = "/data"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """The slices of a worker as they are now.

    Parameters
    ----------
    blocks : sequence of Block
        At least one.
    updates : int
        How often arriving projections have led to an update.
    slices_total : int
        Of the scan.
    attributes : mapping
        Provenance, for files.
    """

    blocks: Sequence[Block]
    updates: int
    slices_total: int
    attributes: Mapping[str, Any]

    @property
    def slices(self) -> range:
        """All of them."""
        return range(self.blocks[0].slices.start, self.blocks[-1].slices.stop)

    @property
    def volumes(self) -> list[FloatArray]:
        """(slice, y, x) float32 of each block; views that the next update changes."""
        return [block.volume for block in self.blocks]

    @property
    def projections(self) -> list[int]:
        """How many projections each block is made from."""
        return [block.reconstruction.projections_reconstructed for block in self.blocks]

    @property
    def taken(self) -> int:
        """How many projections all of them have got."""
        return min(block.next for block in self.blocks)

    @property
    def rotation_center(self) -> float:
        """Column index."""
        return self.blocks[0].reconstruction.rotation_center


class WorkerResults:
    """Gives away what there is. A context manager.

    Parameters
    ----------
    options : ResultOptions
    key : LinkKey or None
        What viewers by ZeroMQ must have; None for everybody, in the clear.

    Attributes
    ----------
    address : str
        Where viewers connect, with the real port.

    Raises
    ------
    InputError
        The PV's name cannot be one, or p4p is not installed.
    OutputError
        A file could not be made.
    PortInUse, ConnectionFailed
        An address cannot be bound.
    """

    def __init__(self, options: ResultOptions, *, key: LinkKey | None = None) -> None:
        self._options = options
        self._live: LiveVolume | None = None
        self._live_slices = range(0)
        self._live_taken = 0
        self._failed: set[str] = set()
        if options.output is not None:
            check_writable(options.output)
        if options.series is not None:
            check_writable(options.series / "000000-recon.h5")
        self._images = None if options.publish_pva is None else SliceServer(options.publish_pva)
        try:
            self._publisher = VolumePublisher(options.publish, key=key)
        except BaseException:
            self._close_images()
            raise
        self.address = self._publisher.address

    def __enter__(self) -> Self:
        self._publisher.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_live()
        self._publisher.__exit__(kind, error, trace)
        self._close_images()

    def _close_images(self) -> None:
        if self._images is not None:
            self._images.close()

    def updated(self, snapshot: Snapshot, *, counted: bool) -> None:
        """Show the slices after an update; `counted` says that `Snapshot.updates` has grown by it."""
        every = self._options.publish_every
        self._publisher.offer(
            snapshot.volumes,
            slice_begin=snapshot.slices.start,
            projections=min(snapshot.projections),
            rotation_center=snapshot.rotation_center,
            due=None if every is None else counted and (snapshot.updates - 1) % every == 0,
        )
        self._offer_image(snapshot, now=False)
        if counted:
            self._write_series(snapshot)
        every = self._options.write_every
        if every is not None and (
            snapshot.taken - self._live_taken >= every or self._live_slices != snapshot.slices
        ):
            self._write_live(snapshot)

    def write(self, snapshot: Snapshot) -> None:
        """Write the result.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        if self._options.output is None:
            return
        self._close_live()
        write_volume(
            self._options.output,
            snapshot.volumes,
            attributes=snapshot.attributes,
            compression=self._options.compression,
        )

    def finish(self, snapshot: Snapshot) -> None:
        """Show the last state to every viewer that is there, and tell that it is the last."""
        self._offer_image(snapshot, now=True)
        self._publisher.finish(
            snapshot.volumes,
            slice_begin=snapshot.slices.start,
            projections=min(snapshot.projections),
            rotation_center=snapshot.rotation_center,
        )

    def _offer_image(self, snapshot: Snapshot, *, now: bool) -> None:
        if self._images is not None:
            self._images.offer(
                snapshot.volumes,
                slice_begin=snapshot.slices.start,
                projections=snapshot.projections,
                rotation_center=snapshot.rotation_center,
                now=now,
            )

    # ------------------------------------------------------------------ files on the way

    def _write_live(self, snapshot: Snapshot) -> None:
        output = self._options.output
        if output is None:
            return
        self._live_taken = snapshot.taken
        try:
            if self._live is None or self._live_slices != snapshot.slices:
                self._close_live()
                # whatever comes of it: not again and again
                self._live_slices = snapshot.slices
                columns = snapshot.volumes[0].shape[1]
                shape = (len(snapshot.slices), columns, columns)
                self._live = LiveVolume(output, shape, attributes=snapshot.attributes)
            self._live.write(snapshot.volumes, snapshot.projections)
        except OutputError as error:
            self._close_live()
            self._tell("the newest state", error)
        else:
            self._failed.discard("the newest state")

    def _write_series(self, snapshot: Snapshot) -> None:
        folder, every = self._options.series, self._options.series_every
        number = snapshot.updates - 1
        if folder is None or number % every:
            return
        alone = len(snapshot.slices) == snapshot.slices_total
        part = "" if alone else f"-{snapshot.slices.start:05d}"
        try:
            write_volume(
                folder / f"{number:06d}-recon{part}.h5",
                snapshot.volumes,
                attributes=snapshot.attributes,
                compression=self._options.compression,
                dataset=self._options.series_dataset,
            )
        except OutputError as error:
            self._tell("an update", error)
        else:
            self._failed.discard("an update")

    def _tell(self, what: str, error: OutputError) -> None:
        """Say it once, not each time."""
        if what not in self._failed:
            self._failed.add(what)
            logger.warning("%s is not written, and reconstruction goes on: %s", what, error)

    def _close_live(self) -> None:
        if self._live is not None:
            self._live.close()
            self._live = None
