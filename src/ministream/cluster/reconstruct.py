"""``ministream reconstruct --dask``: all reconstruction workers of a scan, on a cluster, and their volume.

The distributor is somebody else's: it runs already, and serves whoever has its key.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ministream.cluster.options import ClusterOptions
from ministream.cluster.placed import PlacedWorker
from ministream.cluster.placement import placement
from ministream.errors import StageError
from ministream.pipeline import Named, Site, scratch
from ministream.pipeline.child import Event
from ministream.sinks import check_writable, merge_volumes, volume_attributes
from ministream.transport import LinkKey

logger = logging.getLogger(__name__)

Report = Callable[[Mapping[str, Any]], None]

_LOOK_S = 0.2
_OF_ONE_PART = ("slice_begin", "slice_count", "output")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedOptions:
    """What the workers do.

    Parameters
    ----------
    arguments : sequence of str
        Options of ``ministream reconstruct`` that are the same for all.
    output : Path or None
        File for the whole volume.
    key_file : Path or None
        The distributor's link key.
    """

    arguments: Sequence[str]
    output: Path | None = None
    key_file: Path | None = None


def reconstruct(
    cluster: ClusterOptions, options: PlacedOptions, report: Report, stop: threading.Event
) -> None:
    """Reconstruct one scan on a cluster; return at its end, or soon after `stop`.

    Reports ``ready`` (``addresses`` of the publishers), ``progress`` (of the slowest worker), ``done``
    (``workers``, ``restarts``, ``output``, and as the workers report).

    Raises
    ------
    InputError
        An option cannot be used, or Dask is not installed.
    OutputError
        The volume cannot be written.
    ConnectionFailed
        The scheduler cannot be reached or was lost, or no Dask worker comes.
    StageError
        A worker failed, or was lost too often; or the workers have not all slices.
    """
    asyncio.run(_until(stop, _reconstruct(cluster, options, report)))


async def _until(stop: threading.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do `work`; cancel it at `stop`."""
    task = asyncio.create_task(work)
    while not task.done():
        await asyncio.wait({task}, timeout=_LOOK_S)
        if stop.is_set():
            task.cancel()
            await asyncio.wait({task})
    if not task.cancelled():
        task.result()


async def _reconstruct(cluster: ClusterOptions, options: PlacedOptions, report: Report) -> None:
    output = None if options.output is None else options.output.absolute()
    if output is not None:
        check_writable(output)
    shared = Path.cwd() if output is None else output.parent
    key = None if options.key_file is None else LinkKey.read(options.key_file)
    slowest = _Slowest(cluster.workers, report)
    mark = scratch.new_mark()
    with scratch.folder() as folder, scratch.no_stragglers(mark):
        site = Site(scratch=folder, shared=shared, mark=mark)
        async with placement(
            cluster, site, key=key, key_file=options.key_file or Path(), has_output=output is not None
        ) as place:
            workers = [
                await place.start(
                    f"reconstruct {number}",
                    ["--json", *options.arguments],
                    on_event=slowest.take,
                    on_warning=_warn,
                )
                for number in range(cluster.workers)
            ]
            ready = await asyncio.gather(*(worker.ready(place.ready_timeout_s) for worker in workers))
            report({"event": "ready", "addresses": [event["address"] for event in ready]})
            parts = await _written(workers)
            if output is not None:
                await asyncio.to_thread(_merge, output, parts)
        report(
            {
                "event": "done",
                **slowest.figures,
                "workers": cluster.workers,
                "restarts": sum(worker.restarts for worker in workers),
                "slices_total": sum(int(part["slice_count"]) for part in parts),
                "rotation_center": parts[0]["rotation_center"] if parts else None,
                "first_update_at": min((part["first_update_at"] for part in parts), default=None),
                "last_update_at": max((part["last_update_at"] for part in parts), default=None),
                "duplicates_dropped": sum(int(part["duplicates_dropped"]) for part in parts),
                "output": None if output is None else str(output),
            }
        )


async def _written(workers: Sequence[PlacedWorker]) -> list[Event]:
    """Return the summaries of those that have written slices, once all slices are, or all workers have ended.

    One that was started again may come when the others have done everything, and find no distributor.
    """
    parts: list[Event] = []
    waiting = [asyncio.create_task(worker.finished()) for worker in workers]
    pending = set(waiting)
    try:
        while pending and not _is_whole(parts):
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            parts += [summary for task in done if (summary := task.result())["slice_count"]]
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return parts


def _is_whole(parts: Sequence[Event]) -> bool:
    written, total = _counts(parts)
    return 0 < total == written


def _counts(parts: Sequence[Event]) -> tuple[int, int]:
    """Return how many slices are written, and how many there are."""
    return sum(int(part["slice_count"]) for part in parts), max(
        (int(part["slices_total"]) for part in parts), default=0
    )


def _merge(output: Path, parts: Sequence[Event]) -> None:
    written, total = _counts(parts)
    if not _is_whole(parts):
        raise StageError(
            f"of {total} slices these workers have written {written}, so there is no {output}: a worker was "
            "lost after it had written, or others than these take part in the scan"
        )
    paths = [Path(part["output"]) for part in parts]
    attributes = {
        name: value for name, value in volume_attributes(paths[0]).items() if name not in _OF_ONE_PART
    }
    merge_volumes(output, paths, attributes=attributes)


def _warn(worker: Named | None, text: str) -> None:
    if worker is not None:
        logger.warning("%s: %s", worker.name, text)


class _Slowest:
    """What is done by all workers."""

    def __init__(self, workers: int, report: Report) -> None:
        self._workers = workers
        self._report = report
        self._newest: dict[str, Event] = {}

    def take(self, worker: Named, event: Event) -> None:
        """Take note of an event, and report progress."""
        if event["event"] not in ("progress", "done") or not event.get("slice_count"):
            return
        self._newest[worker.name] = event
        if event["event"] == "progress" and len(self._newest) == self._workers:
            self._report({"event": "progress", **self.figures})

    @property
    def figures(self) -> dict[str, Any]:
        events = self._newest.values()
        return {
            "projections_reconstructed": min(
                (int(one["projections_reconstructed"]) for one in events), default=0
            ),
            "projections_total": max((int(one["projections_total"]) for one in events), default=0),
            "updates": min((int(one["updates"]) for one in events), default=0),
        }
