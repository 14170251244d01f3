"""Judge a reconstruction: one that lies in a file, or one that is being made.

Live, the slices of all workers are put together, and judged whenever there is
something new: against a reference if there is one, else by how much they still change and how sharp they are.
Only the newest volume counts: what arrives during a judgement replaces what waits for the next.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ministream.errors import ConnectionFailed, InputError
from ministream.kernels.metrics import circle_mask, mse, psnr, relative_change, sharpness, ssim
from ministream.sinks import read_volume
from ministream.stages.broadcast import VolumeSubscriber

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]
Report = Callable[[Mapping[str, Any]], None]

_SMALLEST = 11
"""Rows and columns that the window of the SSIM needs."""
_MOST_SLICES_LIVE = 8
_SHARE_OF_TIME = 0.25
"""Of one core, that live judgements may take: the reconstruction needs the cores more."""
_POLL_S = 0.2


def judge(volume: FloatArray, reference: FloatArray | None = None) -> dict[str, float]:
    """Return figures of a volume, by name, over the reconstruction circle and all slices.

    Parameters
    ----------
    volume : (slice, y, x) float32
    reference : (slice, y, x) float32, optional

    Returns
    -------
    dict
        With a reference ``ssim``, ``psnr`` (dB) and ``mse``; always ``sharpness``. See
        `ministream.kernels.metrics`.

    Raises
    ------
    InputError
        The shapes do not fit, a slice is too small, or the reference is constant.
    """
    if volume.ndim != 3 or volume.shape[1] != volume.shape[2] or volume.shape[1] < _SMALLEST:
        raise InputError(
            f"a volume of shape {volume.shape} cannot be judged: (slice, y, x) is needed, square slices of at"
            f" least {_SMALLEST} pixels"
        )
    mask = circle_mask(volume.shape[1])
    figures: dict[str, float] = {}
    try:
        if reference is not None:
            figures = {
                "ssim": ssim(volume, reference, mask),
                "psnr": psnr(volume, reference, mask),
                "mse": mse(volume, reference, mask),
            }
        figures["sharpness"] = sharpness(volume, mask)
    except ValueError as error:
        raise InputError(f"the volume cannot be judged: {error}") from error
    return figures


def judge_files(volume: Path, reference: Path | None = None) -> dict[str, float]:
    """Return `judge` of a file, against another one if that is given.

    Raises
    ------
    InputError
        A file cannot be read, or the two do not fit.
    """
    return judge(_read(volume), None if reference is None else _read(reference))


def _read(path: Path) -> FloatArray:
    volume, _ = read_volume(path)
    if not np.isfinite(volume).all():
        raise InputError(f"{path} holds values that are not finite")
    return volume


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityOptions:
    """What to judge live.

    Parameters
    ----------
    connect : sequence of str
        Publishers of all workers.
    reference : Path or None
        File of a volume with all their slices.
    connect_timeout_s : float
        How long to wait for the first publisher to answer.
    """

    connect: Sequence[str]
    reference: Path | None = None
    connect_timeout_s: float = 60.0


def run(options: QualityOptions, report: Report, stop: threading.Event) -> None:
    """Judge what the workers publish until each has published its last volume, or is gone; or until `stop`.

    Reports ``progress`` with ``update``, ``projections`` and the figures, the last of which ``done`` repeats.

    Raises
    ------
    InputError
        The reference cannot be used, or does not fit the volume.
    ConnectionFailed
        An address is wrong, or a publisher is never there.
    ProtocolError
        A publisher sends what is no volume.
    """
    reference = None if options.reference is None else _read(options.reference)
    with VolumeSubscriber(options.connect) as subscriber:
        _Live(reference, report).run(subscriber, options.connect_timeout_s, stop)


class _Live:
    """The judgements of one run, and what they remember of each other."""

    def __init__(self, reference: FloatArray | None, report: Report) -> None:
        self._reference = reference
        self._report = report
        self._previous: FloatArray | None = None
        self._updates = 0
        self._figures: dict[str, float] = {}
        self._projections = 0

    def run(self, subscriber: VolumeSubscriber, connect_timeout_s: float, stop: threading.Event) -> None:
        give_up_at = time.monotonic() + connect_timeout_s
        next_at, fresh = 0.0, False
        while not stop.is_set():
            fresh |= subscriber.receive(_POLL_S)
            if not subscriber.all_connected and not subscriber.ended:
                if time.monotonic() > give_up_at:
                    missing = ", ".join(subscriber.missing)
                    raise ConnectionFailed(
                        f"after {connect_timeout_s:g} s nobody publishes at {missing}; start workers first"
                    )
                continue
            if fresh and subscriber.complete and (time.monotonic() >= next_at or subscriber.ended):
                started = time.monotonic()
                self._judge(*subscriber.assemble())
                taken = time.monotonic() - started
                next_at, fresh = time.monotonic() + taken * (1 / _SHARE_OF_TIME - 1), False
            if subscriber.ended:
                break
        if not stop.is_set():
            self._report({"event": "done", **self._event()})

    def _judge(self, volume: FloatArray, projections: int) -> None:
        reference = self._reference
        if reference is not None and reference.shape != volume.shape:
            raise InputError(
                f"the reference of shape {reference.shape} does not fit the volume of shape {volume.shape}"
            )
        some = np.unique(np.linspace(0, len(volume) - 1, min(len(volume), _MOST_SLICES_LIVE)).astype(int))
        sample = volume[some]
        figures = judge(sample, None if reference is None else reference[some])
        if self._previous is not None:
            figures["change"] = relative_change(sample, self._previous, circle_mask(volume.shape[1]))
        self._previous = sample
        self._updates += 1
        self._projections = projections
        # JSON knows no infinity
        self._figures = {name: value for name, value in figures.items() if math.isfinite(value)}
        self._report({"event": "progress", **self._event()})

    def _event(self) -> dict[str, Any]:
        return {"update": self._updates, "projections": self._projections, **self._figures}
