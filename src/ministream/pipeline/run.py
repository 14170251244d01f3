"""Compose the main job out of the programs that a facility would start by hand, and watch it to its end.

Order of start: both control servers and the DAQ; the session through both gateways; the distributor, which
connects to the session's listeners; the reconstruction workers; the live quality stage. Order of end: every
stage ends by itself when its input has; the session is released; the control servers are stopped. Whatever
happens in between, everything that was started is ended, and an error tells which program failed and why.

A distributor or a worker that is killed is started again, a few times; data servers are by their control
servers. The scan goes on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from ministream import tunnel
from ministream.errors import ConnectionFailed, InputError, OutputError, StageError
from ministream.pipeline import commands, results, scratch
from ministream.pipeline.child import Child, Event
from ministream.pipeline.commands import RunOptions
from ministream.pipeline.placement import Named, Place, Placement, Site, Worker
from ministream.pipeline.report import Observer, Progress, Verdict
from ministream.pipeline.supervised import Supervised
from ministream.pipeline.watch import Lossy, all_done, is_echo
from ministream.sinks import volume_attributes
from ministream.sources import open_source

logger = logging.getLogger(__name__)

_READY_TIMEOUT_S = 60.0
_POLL_INTERVAL_S = 0.5
_ACCOUNT_TRIES = 3
_LOSSES = ("frames_lost", "frames_dropped")
"""What a detector's DAQ counts."""
_FAREWELL_S = 5.0
"""How long workers may take to say what they have done, when it is known to be written."""


async def run(options: RunOptions, observer: Observer, place: Place | None = None) -> Verdict:
    """Stream and reconstruct one scan; write volume, picture and quality figures.

    The reconstruction workers are on this host, or where the placement that `place` opens has them.

    Raises
    ------
    InputError
        The scan or an option cannot be used; nothing was started.
    OutputError
        A result cannot be written.
    StageError
        A program failed; all others have been ended.
    """
    with open_source(options.source, **asdict(options.reading)) as source:
        description = source.describe()
    if options.workers > description.rows:
        raise InputError(
            f"{options.workers} workers for {description.rows} detector rows: each worker needs at least one"
        )
    if options.center is not None and not 0 <= options.center <= description.columns - 1:
        raise InputError(
            f"the rotation centre {options.center:g} is not on the detector, whose columns are 0 to"
            f" {description.columns - 1}; give another --center, or auto"
        )
    _prepare_folder(options.out)
    with scratch.folder() as folder:
        run_ = _Run(options, observer, folder)
        run_.progress.projections_total = description.projections
        with scratch.no_stragglers(run_.mark):
            try:
                async with contextlib.AsyncExitStack() as stack:
                    if place is not None:
                        site = Site(scratch=folder, shared=options.out.absolute(), mark=run_.mark)
                        run_.placement = await stack.enter_async_context(place(site))
                    return await run_.main(has_truth=source.has_truth)
            finally:
                await run_.stop()


class _Run:
    """One run: the children, what they have told so far, and the steps in order."""

    def __init__(self, options: RunOptions, observer: Observer, folder: Path) -> None:
        self.options = options
        self.observer = observer
        self.folder = folder
        self.progress = Progress()
        self.mark = scratch.new_mark()
        self.children: list[Child] = []
        self.placement: Placement | None = None
        self.supervised: list[Supervised | Worker] = []
        self.worker_progress: dict[int, Event] = {}
        self.worker_duplicates: dict[int, int] = {}
        self.steering: str | None = None
        self.last_received_at = 0.0

    async def main(self, *, has_truth: bool) -> Verdict:
        options = self.options
        self._phase("starting two gateways and the DAQ")
        truth = self.folder / "truth.h5" if has_truth else None
        daq, producer, consumer = await self._start_together(truth)
        ready = await daq.ready(_READY_TIMEOUT_S)
        targets = [str(ready["address"])] * options.channels
        if options.steer:
            # a channel of its own, so that only this session's consumer can ask the DAQ to end
            targets.append(str(ready["steering_address"]))

        self._phase("opening the session")
        async with tunnel.open_tunnel(producer, consumer, targets=targets, channels=len(targets)) as session:
            self._phase("starting distributor and workers")
            self.steering = session.addresses[options.channels] if options.steer else None
            distributor, workers, quality = await self._start_consumers(
                session.addresses[: options.channels], truth
            )
            self._phase("streaming")
            sent, received = await self._stream(daq, distributor, workers, quality, session)
            parts = [Path(part["output"]) for part in received["parts"]]
            reconstructed = [volume_attributes(part) for part in parts]
            # before anything else can go wrong
            self._phase("writing results")
            outcome = await asyncio.to_thread(
                results.write,
                options.out,
                parts=parts,
                truth=truth,
                attributes=self._provenance(received),
            )
            account = await self._account(session)
        counts = (
            int(sent["projections_sent"]),
            int(received["projections_received"]),
            min(int(part["projections_reconstructed"]) for part in reconstructed),
        )
        stream_s = max(float(part["last_update_at"]) for part in reconstructed) - sent["first_projection_at"]
        received_s = self.last_received_at - float(sent["first_projection_at"])
        wanted = counts[0] if "ended_early" in sent else self.progress.projections_total
        return Verdict(
            complete=set(counts) == {wanted} and not any(map(sent.get, _LOSSES)),
            ended_early=sent.get("ended_early"),
            projections_expected=self.progress.projections_total,
            projections_sent=counts[0],
            projections_received=counts[1],
            projections_reconstructed=counts[2],
            bytes=account.bytes_to_consumer,
            bytes_per_s=account.bytes_to_consumer / max(received_s, 1e-9),
            encrypted=account.encrypted,
            setup_seconds=session.setup_s,
            stream_seconds=stream_s,
            rotation_center=float(received["rotation_center"]),
            rotation_center_estimated=bool(received["rotation_center_estimated"]),
            invalid_pixels=int(received["invalid_pixels"]),
            ssim=outcome.quality.get("ssim"),
            quality=outcome.quality,
            frames_retransmitted=int(sent["frames_retransmitted"]) + int(received["frames_retransmitted"]),
            duplicates_dropped=int(received["duplicates_dropped"]) + sum(self.worker_duplicates.values()),
            workers_lost=int(received["workers_lost"]),
            programs_restarted=sum(program.restarts for program in self.supervised),
            updates=min(int(part["updates"]) for part in reconstructed),
            workers=options.workers,
            channels=options.channels,
            data_server=options.data_server,
            algorithm=options.algorithm,
            source=options.source,
            volume=str(outcome.volume),
            picture=str(outcome.picture),
            quality_file=str(outcome.quality_file),
            warnings=list(self.progress.warnings),
        )

    async def _stream(
        self,
        daq: Child,
        distributor: Supervised,
        workers: Sequence[Supervised | Worker],
        quality: Child,
        session: tunnel.Tunnel,
    ) -> tuple[Event, Event]:
        """Wait until all slices are written; return the summaries of DAQ and distributor."""
        # the live quality stage is not waited for: it ends with its input, and is told to otherwise; and the
        # distributor knows best what the workers have written
        streaming = asyncio.create_task(
            all_done([self._lossy(daq), distributor], must_live=self._servers, may_end=[quality, *workers])
        )
        metering = asyncio.create_task(self._meter(session))
        try:
            await asyncio.wait({streaming, metering}, return_when=asyncio.FIRST_COMPLETED)
            if not streaming.done():
                metering.result()  # it ends by raising only
            sent, received = streaming.result()
            farewells = [asyncio.create_task(worker.farewell()) for worker in workers]
            _, late = await asyncio.wait(farewells, timeout=_FAREWELL_S)
            for farewell in late:
                farewell.cancel()
            await asyncio.gather(*farewells, return_exceptions=True)
        except StageError as failure:
            if is_echo(failure):
                # where the gateways do not answer either, the failure is all there is to tell
                with contextlib.suppress(ConnectionFailed):
                    reason = (await self._account(session)).failure
                    if reason is not None:
                        raise StageError(reason) from failure
            raise
        else:
            return sent, received
        finally:
            for task in (streaming, metering):
                task.cancel()
            await asyncio.gather(streaming, metering, return_exceptions=True)

    async def _meter(self, session: tunnel.Tunnel) -> NoReturn:
        """Ask the gateways what they carry, again and again; raise StageError if the session has failed."""
        last_bytes, last_s = 0, time.monotonic()
        while True:
            await asyncio.sleep(_POLL_INTERVAL_S)
            try:
                view, now_s = await session.look(), time.monotonic()
            except ConnectionFailed as error:
                # the stream does not depend on it
                logger.info("no figures of the session: %s", error)
                continue
            if view.failure is not None:
                raise StageError(view.failure)
            self.progress.session_bytes = view.bytes_to_consumer
            self.progress.session_bytes_per_s = (view.bytes_to_consumer - last_bytes) / (now_s - last_s)
            last_bytes, last_s = view.bytes_to_consumer, now_s
            self.observer(self.progress)

    async def _account(self, session: tunnel.Tunnel) -> tunnel.SessionView:
        """Return what the gateways say at the end; they are asked more than once."""
        for _ in range(_ACCOUNT_TRIES - 1):
            with contextlib.suppress(ConnectionFailed):
                return await session.look()
        return await session.look()

    # ------------------------------------------------------------------ starting

    async def _start_together(self, truth: Path | None) -> tuple[Child, tunnel.Gateway, tunnel.Gateway]:
        """Start both control servers and the DAQ at once; return when both servers are ready."""
        facilities = [tunnel.prepare_facility(self.folder / name, name) for name in ("producer", "consumer")]
        servers = [
            await self._start(
                f"s2cs {facility.name}", facility.server_command(data_server=self.options.data_server)
            )
            for facility in facilities
        ]
        self._servers = servers
        daq = await self._start("daq", commands.daq(self.options, truth))
        ready = await asyncio.gather(*(server.ready(_READY_TIMEOUT_S) for server in servers))
        producer, consumer = (
            facility.gateway(event) for facility, event in zip(facilities, ready, strict=True)
        )
        return daq, producer, consumer

    async def _start_consumers(
        self, addresses: Sequence[str], truth: Path | None
    ) -> tuple[Supervised, Sequence[Supervised | Worker], Child]:
        """Start distributor, workers and quality stage at the consumer facility."""
        placement = self.placement
        key_file = None if placement is None else placement.key_file
        listen = commands.LOOPBACK if placement is None else f"tcp://{placement.host}:0"

        def distribute(listen: str) -> list[str]:
            return commands.distribute(self.options, addresses, self.folder / "store", listen, key_file)

        child = await self._start("distribute", distribute(listen))
        address = str((await child.ready(_READY_TIMEOUT_S))["address"])
        distributor = self._supervise(child, distribute(address))
        workers: Sequence[Supervised | Worker]
        if placement is None:
            workers, publishers = await self._start_workers(address)
        else:
            workers, publishers = await self._place_workers(placement, address)
        quality = await self._start(
            "quality",
            commands.quality(
                self.options,
                publishers,
                truth,
                projections=self.progress.projections_total,
                stop_daq=self.steering,
                key_file=key_file,
            ),
        )
        return distributor, workers, quality

    async def _start_workers(self, distributor: str) -> tuple[list[Supervised], list[str]]:
        """Start the workers on this host; return them, and where they publish."""
        workers = [
            await self._start(f"reconstruct {number}", self._worker_command(number, distributor))
            for number in range(self.options.workers)
        ]
        ready = await asyncio.gather(*(worker.ready(_READY_TIMEOUT_S) for worker in workers))
        publishers = [str(event["address"]) for event in ready]
        return [
            self._supervise(worker, self._worker_command(number, distributor, publish=publishers[number]))
            for number, worker in enumerate(workers)
        ], publishers

    async def _place_workers(self, placement: Placement, distributor: str) -> tuple[list[Worker], list[str]]:
        """Have the workers started where the placement wants them; return them, and where they publish."""
        self._phase("waiting for workers on other hosts")
        workers = [
            await placement.start(
                f"reconstruct {number}",
                commands.placed_reconstruct(self.options, distributor),
                on_event=self._on_event,
                on_warning=self._on_warning,
            )
            for number in range(self.options.workers)
        ]
        self.supervised += workers
        ready = await asyncio.gather(*(worker.ready(placement.ready_timeout_s) for worker in workers))
        return workers, [str(event["address"]) for event in ready]

    def _worker_command(self, number: int, distributor: str, publish: str = commands.LOOPBACK) -> list[str]:
        return commands.reconstruct(self.options, distributor, self.folder / f"part-{number}.h5", publish)

    def _supervise(self, child: Child, command: Sequence[str]) -> Supervised:
        """Have `child` started again with `command`, at the addresses where its neighbours know it."""
        supervised = Supervised(
            child,
            lambda: self._start(child.name, command),
            lambda text: self._on_warning(None, text),
        )
        self.supervised.append(supervised)
        return supervised

    def _lossy(self, daq: Child) -> Lossy:
        return Lossy(daq, lambda text: self._on_warning(None, text))

    async def _start(self, name: str, command: Sequence[str]) -> Child:
        child = await Child.start(
            name,
            command,
            on_event=self._on_event,
            on_warning=self._on_warning,
            environment={scratch.MARK: self.mark},
        )
        self.children.append(child)
        return child

    async def stop(self) -> None:
        """End every child, the last started first."""
        # two at a time would be faster; in this order no stage reports that its neighbour has gone
        for child in reversed(self.children):
            await child.stop()

    # ------------------------------------------------------------------ watching

    def _on_event(self, child: Named, event: Event) -> None:
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
                if kind == "done":
                    self.worker_duplicates[int(rank)] = int(event.get("duplicates_dropped", 0))
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

    def _on_warning(self, child: Named | None, text: str) -> None:
        self.progress.warnings.append(text if child is None else f"{child.name}: {text}")
        self.observer(self.progress)

    def _phase(self, text: str) -> None:
        self.progress.phase = text
        self.observer(self.progress)

    def _provenance(self, received: Event) -> dict[str, str | int | float]:
        options = self.options
        return {
            "source": Path(options.source).name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "algorithm": options.algorithm,
            "rotation_center": float(received["rotation_center"]),
            "rotation_center_estimated": bool(received["rotation_center_estimated"]),
            "invalid_pixels": int(received["invalid_pixels"]),
            "workers": options.workers,
            "window": options.window,
            "step": options.step,
            "iterations": options.iterations,
            "refine": options.refine,
            "total_variation": options.total_variation,
            "stripes": options.stripes,
            "zingers": options.zingers,
            "zinger_pixels": int(received["zinger_pixels"]),
            "order": options.order,
            "projections": self.progress.projections_total,
        }


def _prepare_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0")
            probe.flush()
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error
