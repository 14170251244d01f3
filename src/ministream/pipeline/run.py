"""Compose the main job out of the programs that a facility would start by hand, and watch it to its end.

Order of start: both control servers and the DAQ; the session through both gateways; the distributor, which
connects to the session's listeners; the reconstruction workers; the live quality stage. Order of end: every
stage ends by itself when its input has; the session is released; the control servers are stopped. Whatever
happens in between, everything that was started is ended, and an error tells which program failed and why.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ministream import tunnel
from ministream.errors import InputError, OutputError, StageError
from ministream.pipeline import results
from ministream.pipeline.child import Child, Event
from ministream.pipeline.report import Observer, Progress, Verdict
from ministream.sources import open_source

_READY_TIMEOUT_S = 60.0
_POLL_INTERVAL_S = 0.5
_RUN_MARK = "MINISTREAM_RUN"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What to run. The defaults stand at the command's options, nowhere else.

    Parameters
    ----------
    source : str
        An APS Data Exchange file, or ``phantom[:key=value,...]``.
    out : Path
        Folder of the results; made if it is missing.
    workers, channels : int
        Reconstruction workers; channels of the session.
    data_server : str
        Installed data server that both gateways use.
    rate : float
        Projections per second, 0 for as fast as possible.
    order : str
        Order in which the views are played.
    algorithm : str
    window, step, iterations, refine : int
    center : str
        A column index, or ``auto``.
    stripes : str
    """

    source: str
    out: Path
    workers: int
    channels: int
    data_server: str
    rate: float
    order: str
    algorithm: str
    window: int
    step: int
    iterations: int
    refine: int
    center: str
    stripes: str


async def run(options: RunOptions, observer: Observer) -> Verdict:
    """Stream and reconstruct one scan; write volume, picture and quality figures.

    Raises
    ------
    InputError
        The scan or an option cannot be used; nothing was started.
    OutputError
        A result cannot be written.
    StageError
        A program failed; all others have been ended.
    """
    with open_source(options.source) as source:
        description = source.describe()
    if options.workers > description.rows:
        raise InputError(
            f"{options.workers} workers for {description.rows} detector rows: each worker needs at least one"
        )
    _prepare_folder(options.out)
    with tempfile.TemporaryDirectory(prefix="ministream-") as folder:
        run_ = _Run(options, observer, Path(folder))
        run_.progress.projections_total = description.projections
        try:
            return await run_.main(has_truth=source.has_truth)
        finally:
            await run_.stop()
            _kill_stragglers(run_.mark)


class _Run:
    """One run: the children, what they have told so far, and the steps in order."""

    def __init__(self, options: RunOptions, observer: Observer, folder: Path) -> None:
        self.options = options
        self.observer = observer
        self.folder = folder
        self.progress = Progress()
        self.mark = uuid.uuid4().hex
        self.children: list[Child] = []
        self.worker_progress: dict[int, Event] = {}
        self.last_received_at = 0.0

    async def main(self, *, has_truth: bool) -> Verdict:
        options = self.options
        self._phase("starting two gateways and the DAQ")
        truth = self.folder / "truth.h5" if has_truth else None
        daq, producer, consumer = await self._start_together(truth)
        target = (await daq.ready(_READY_TIMEOUT_S))["address"]

        self._phase("opening the session")
        async with tunnel.open_tunnel(
            producer, consumer, targets=[target], channels=options.channels
        ) as session:
            self._phase("starting distributor and workers")
            distributor, workers, quality = await self._start_consumers(session.addresses, truth)
            self._phase("streaming")
            # the live quality stage is not waited for: it ends with its input, and is told to otherwise
            watched = [daq, distributor, *workers]
            async with self._metering(session):
                summaries = await _all_or_first_failure(watched, also_alive=[*self._servers, quality])
            carried = await session.bytes_to_consumer()
            encrypted = await session.is_encrypted()
        self._phase("writing results")
        sent, received, reconstructed = summaries[0], summaries[1], summaries[2:]
        outcome = await asyncio.to_thread(
            results.write,
            options.out,
            parts=[Path(part["output"]) for part in reconstructed],
            truth=truth,
            attributes=self._provenance(received),
        )
        counts = (
            int(sent["projections_sent"]),
            int(received["projections_received"]),
            min(int(part["projections_reconstructed"]) for part in reconstructed),
        )
        stream_s = max(float(part["last_update_at"]) for part in reconstructed) - sent["first_projection_at"]
        received_s = self.last_received_at - float(sent["first_projection_at"])
        return Verdict(
            complete=set(counts) == {self.progress.projections_total},
            projections_expected=self.progress.projections_total,
            projections_sent=counts[0],
            projections_received=counts[1],
            projections_reconstructed=counts[2],
            bytes=carried,
            bytes_per_s=carried / max(received_s, 1e-9),
            encrypted=encrypted,
            setup_seconds=session.setup_s,
            stream_seconds=stream_s,
            rotation_center=float(received["rotation_center"]),
            ssim=outcome.quality.get("ssim"),
            quality=outcome.quality,
            updates=min(int(part["updates"]) for part in reconstructed),
            workers=options.workers,
            channels=options.channels,
            data_server=options.data_server,
            algorithm=options.algorithm,
            source=options.source,
            volume=str(outcome.volume),
            picture=str(outcome.picture),
            quality_file=str(outcome.quality_file),
        )

    # ------------------------------------------------------------------ starting

    async def _start_together(self, truth: Path | None) -> tuple[Child, tunnel.Gateway, tunnel.Gateway]:
        """Start both control servers and the DAQ at once; return when all are ready."""
        facilities = [tunnel.prepare_facility(self.folder / name, name) for name in ("producer", "consumer")]
        servers = [
            await self._start(
                f"s2cs {facility.name}", facility.server_command(data_server=self.options.data_server)
            )
            for facility in facilities
        ]
        self._servers = servers
        daq = await self._start(
            "daq",
            [
                *_program("daq"),
                self.options.source,
                *("--listen", "tcp://127.0.0.1:0"),
                *("--rate", f"{self.options.rate:g}"),
                *("--order", self.options.order),
                *(("--truth", str(truth)) if truth else ()),
                "--json",
            ],
        )
        ready = await asyncio.gather(*(server.ready(_READY_TIMEOUT_S) for server in servers))
        await daq.ready(_READY_TIMEOUT_S)
        producer, consumer = (
            facility.gateway(event) for facility, event in zip(facilities, ready, strict=True)
        )
        return daq, producer, consumer

    async def _start_consumers(
        self, addresses: Sequence[str], truth: Path | None
    ) -> tuple[Child, list[Child], Child]:
        """Start distributor, workers and quality stage at the consumer facility."""
        options = self.options
        distributor = await self._start(
            "distribute",
            [
                *_program("distribute"),
                *(argument for address in addresses for argument in ("--connect", address)),
                *("--listen", "tcp://127.0.0.1:0"),
                *("--workers", str(options.workers)),
                *("--center", options.center),
                *("--stripes", options.stripes),
                "--json",
            ],
        )
        source_address = (await distributor.ready(_READY_TIMEOUT_S))["address"]
        threads = max(1, len(os.sched_getaffinity(0)) // options.workers)
        workers = [
            await self._start(
                f"reconstruct {rank}",
                [
                    *_program("reconstruct"),
                    *("--connect", source_address),
                    *("--rank", str(rank), "--workers", str(options.workers)),
                    *("--algorithm", options.algorithm),
                    *("--window", str(options.window), "--step", str(options.step)),
                    *("--iterations", str(options.iterations), "--refine", str(options.refine)),
                    *("--threads", str(threads)),
                    *("--publish", "tcp://127.0.0.1:0"),
                    *("--output", str(self.folder / f"part-{rank}.h5")),
                    "--json",
                ],
            )
            for rank in range(options.workers)
        ]
        ready = await asyncio.gather(*(worker.ready(_READY_TIMEOUT_S) for worker in workers))
        quality = await self._start(
            "quality",
            [
                *_program("quality"),
                *(argument for event in ready for argument in ("--connect", str(event["address"]))),
                *(("--reference", str(truth)) if truth else ()),
                "--json",
            ],
        )
        return distributor, workers, quality

    async def _start(self, name: str, command: Sequence[str]) -> Child:
        child = await Child.start(name, command, on_event=self._on_event, environment={_RUN_MARK: self.mark})
        self.children.append(child)
        return child

    async def stop(self) -> None:
        """End every child, the last started first."""
        # two at a time would be faster; in this order no stage reports that its neighbour has gone
        for child in reversed(self.children):
            await child.stop()

    # ------------------------------------------------------------------ watching

    def _on_event(self, child: Child, event: Event) -> None:
        progress, kind = self.progress, event.get("event")
        if kind not in ("progress", "done"):
            return
        stage, _, rank = child.name.partition(" ")
        match stage:
            case "daq":
                # both tell now and then only: what has been received was sent
                progress.projections_sent = max(
                    int(event.get("projections_sent", 0)), progress.projections_received
                )
            case "distribute":
                received = int(event.get("projections_received", 0))
                if received > progress.projections_received:
                    self.last_received_at = time.time()
                progress.projections_received = received
                progress.projections_sent = max(progress.projections_sent, received)
                progress.rotation_center = event.get("rotation_center")
            case "reconstruct":
                self.worker_progress[int(rank)] = event
                if len(self.worker_progress) == self.options.workers:
                    slowest = self.worker_progress.values()
                    progress.projections_reconstructed = min(
                        int(worker.get("projections_reconstructed", 0)) for worker in slowest
                    )
                    progress.updates = min(int(worker.get("updates", 0)) for worker in slowest)
            case "quality":
                progress.quality = {
                    name: value
                    for name, value in event.items()
                    if isinstance(value, float) and name not in ("seconds",)
                }
        self.observer(progress)

    @contextlib.asynccontextmanager
    async def _metering(self, session: tunnel.Tunnel) -> AsyncIterator[None]:
        """Ask the gateways what they carry, as long as the body runs."""
        task = asyncio.create_task(self._meter(session), name="meter")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _meter(self, session: tunnel.Tunnel) -> None:
        last_bytes, last_s = 0, time.monotonic()
        while True:
            await asyncio.sleep(_POLL_INTERVAL_S)
            carried, now_s = await session.bytes_to_consumer(), time.monotonic()
            self.progress.session_bytes = carried
            self.progress.session_bytes_per_s = (carried - last_bytes) / (now_s - last_s)
            last_bytes, last_s = carried, now_s
            self.observer(self.progress)

    def _phase(self, text: str) -> None:
        self.progress.phase = text
        self.observer(self.progress)

    def _provenance(self, received: Event) -> dict[str, str | int | float]:
        options = self.options
        return {
            "source": options.source,
            "algorithm": options.algorithm,
            "rotation_center": float(received["rotation_center"]),
            "window": options.window,
            "step": options.step,
            "iterations": options.iterations,
            "refine": options.refine,
            "stripes": options.stripes,
            "order": options.order,
            "projections": self.progress.projections_total,
        }


async def _all_or_first_failure(watched: Sequence[Child], *, also_alive: Sequence[Child]) -> list[Event]:
    """Return every watched child's summary, or raise the error of the first that fails.

    Those of `also_alive` must not end before; the live quality stage may, with success.
    """
    done = [asyncio.create_task(child.finished(), name=child.name) for child in watched]
    alive = {asyncio.create_task(child.finished(), name=child.name): child for child in also_alive}
    try:
        pending: set[asyncio.Task[Event]] = {*done, *alive}
        while any(task in pending for task in done):
            finished, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                task.result()
                if task in alive and alive[task].name.startswith("s2cs"):
                    raise StageError(f"{task.get_name()} ended while the session was open")
        return [task.result() for task in done]
    finally:
        for task in (*done, *alive):
            task.cancel()
        await asyncio.gather(*done, *alive, return_exceptions=True)


def _program(stage: str) -> list[str]:
    """Return the command of a stage, run by this interpreter."""
    return [sys.executable, "-m", "ministream", stage]


def _prepare_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0")
            probe.flush()
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error


def _kill_stragglers(mark: str) -> None:
    """Make sure of it: no process that descends from this run is left, whatever its parent did.

    Raises
    ------
    StageError
        There was one. It has been killed.
    """
    wanted = f"{_RUN_MARK}={mark}".encode()
    left = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile, or belongs to somebody else
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), 9)
                left.append(folder.name)
    if left:
        raise StageError(f"processes {', '.join(left)} had not ended with the run; they were killed")
