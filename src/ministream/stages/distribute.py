"""The distributor: corrects projections and shares their rows among reconstruction workers.

In order: it listens, waits until enough workers are there, and only then connects to the DAQ, so that
nothing flows before it can be used. Dark and flat fields are averaged. Each projection becomes attenuation
and goes to the store (`ministream.stages.store`), from which every worker gets its rows of all of them
(`ministream.stages.workers`). Rotation centre and stripe offsets are estimated on the way (see
`ministream.stages.calibration`) and told to the workers in the order of the stream.

Nothing is left out and nothing piles up: the DAQ gets a credit back when a projection is in the store and
every worker that is there has done with it, so the slowest worker sets the pace. Workers that are away do
not: the store has room for the whole scan. At the end every worker knows the last calibration before it
learns that it has everything, and the scan ends when all slices are written.

Workers of the APS streaming mini-app can be served too, or alone: see `ministream.stages.ranks`.

With a state directory the store outlives the process: started again, it goes on where it was. The DAQ sends
again what was not acknowledged, the workers say what they have.

What a worker is told, beside the frames (`TImage`, float32 attenuation; the number is that of the projection,
from 0 without gaps; the rows are those of all its blocks that need it):

``assignment``
    ``slices_total``, ``columns``, ``projections``, ``name``, ``scan``, ``rotation_center`` (null if it is not
    known yet), and ``blocks``: lists of first slice, last slice + 1, and the projection that comes next. A
    block that begins with projection 0 is new; any other is, or is part of, one that the worker has.
``calibration``
    ``rotation_center`` (null if not known yet), ``views`` that it is from; the payload, if there is one, is
    the stripe offset of its slices, (slice, column) little-endian float32.
`ministream.stages.workers.COMPLETE`
    A message instead of a frame: this was all.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ministream.errors import ConnectionFailed, InputError, ProtocolError
from ministream.frames import ScanDescription
from ministream.kernels import stripes, zingers
from ministream.stages.calibration import Calibrator, warm_up
from ministream.stages.correction import Corrector
from ministream.stages.distributor_memory import shares_of
from ministream.stages.ranks import Ranks
from ministream.stages.steering import ENDED_EARLY
from ministream.stages.store import ScanStore
from ministream.stages.syncing import Syncing
from ministream.stages.workers import Workers
from ministream.stages.zingers import ZingerRemover
from ministream.transport import (
    FIRST_CREDITS,
    RECONNECT_TIMEOUT_S,
    Ended,
    Inlet,
    LinkKey,
    Message,
    Notice,
    Outlet,
    wait_any,
)
from ministream.transport.flow import Party
from ministream.transport.ranks import RankServer
from ministream.wire import timage

logger = logging.getLogger(__name__)

Report = Callable[[Mapping[str, Any]], None]

STRIPE_METHODS = (*stripes.METHODS, "none")
_WAIT_S = 0.2
_WAIT_FOR_ESTIMATE_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributeOptions:
    """What to distribute, and to how many.

    Parameters
    ----------
    connect : sequence of str
        Addresses that lead to the DAQ: one for each channel of a session, or the DAQ's own.
    listen : str
        Where the workers connect.
    workers : int
        How many must be there before the scan begins; others may come and go. None are needed where there
        are those of the mini-app.
    tmq : str or None
        Where rank 0 of the mini-app's workers asks; all of them must be there before the scan begins.
    center : float or None
        Rotation centre as a column index; None to estimate it.
    stripes : str
        One of `STRIPE_METHODS`.
    zingers : float
        How much brighter than their surroundings zingers are, see `ministream.kernels.zingers`; 0 leaves
        them.
    credits : int or None
        Frames that may be on their way from the DAQ or in work; None for what
        `ministream.transport.credits_for` says.
    connect_timeout_s : float
        How long the DAQ may take to answer.
    reconnect_timeout_s : float
        How long the DAQ, or the only worker, may take to come back when its connections are lost.
    worker_timeout_s : float
        How long another worker may take to come back before its slices are given to others.
    state_dir : Path or None
        Where to keep the scan, so that a distributor that was killed can be started again.
    memory : int or None
        Bytes that this process may use, but for the scan's files; None for a share of what is free.
    link_key : LinkKey or None
        Serve only workers who have it, and encrypt what they get.
    """

    connect: Sequence[str]
    listen: str = "tcp://127.0.0.1:0"
    workers: int = 1
    tmq: str | None = None
    center: float | None = None
    stripes: str = "sorting"
    zingers: float = zingers.THRESHOLD
    credits: int | None = None
    connect_timeout_s: float = 30.0
    reconnect_timeout_s: float = RECONNECT_TIMEOUT_S
    worker_timeout_s: float = 15.0
    state_dir: Path | None = None
    memory: int | None = None
    link_key: LinkKey | None = None


def run(options: DistributeOptions, report: Report, stop: threading.Event) -> None:
    """Distribute one scan; return at its end, or soon after `stop`.

    Reports ``ready`` (``address``, and ``tmq_address`` if there is one), ``progress``
    (``projections_received``, ``projections_total``, ``rotation_center``, ``workers``, and ``ranks`` of the
    mini-app that are there), ``done`` (also ``invalid_pixels``, ``zinger_pixels``, ``duplicates_dropped``,
    ``frames_retransmitted``, ``flat_fields``, ``dark_fields``, ``rotation_center_estimated``,
    ``workers_joined``, ``workers_lost``, ``seconds``, and ``parts``: which worker has written which slices,
    and where; and ``ended_early``: why the DAQ has sent fewer projections than announced, if it was asked
    to). Figures of what was sent, dropped and lost are of this process.

    Raises
    ------
    InputError
        An option or the scan cannot be used: more workers than rows, no flat field before a projection, a
        state directory with another scan.
    OutputError
        The scan cannot be kept: not enough room.
    PortInUse, ConnectionFailed
        The workers' address cannot be bound; the DAQ cannot be reached, or was lost.
    ProtocolError
        The DAQ sends what cannot be understood.
    StageError
        The last worker left before the end; or one of the mini-app's has, after everybody else is done.
    """
    if not options.workers and options.tmq is None:
        raise InputError("0 workers: at least one is needed, or --tmq for those of the mini-app")
    if not 0 <= options.zingers < float("inf"):
        raise InputError(f"zingers that are {options.zingers:g} brighter: it is 0 or more, and finite")
    if options.stripes not in STRIPE_METHODS:
        raise InputError(f"stripes {options.stripes!r} is not one of {', '.join(STRIPE_METHODS)}")
    store = None if options.state_dir is None else ScanStore.reopen(options.state_dir)
    with contextlib.ExitStack() as stack:
        if store is not None:
            stack.enter_context(store)
        outlet = stack.enter_context(
            Outlet(
                options.listen,
                description={"stage": "distribute"},
                reconnect_timeout_s=options.reconnect_timeout_s,
                key=options.link_key,
            )
        )
        ready = {"event": "ready", "address": outlet.address}
        ranks = None
        if options.tmq is not None:
            server = stack.enter_context(RankServer(options.tmq))
            ready["tmq_address"] = server.address
            ranks = Ranks(server, timeout_s=options.worker_timeout_s, patience_s=options.reconnect_timeout_s)
        report(ready)
        warm_up(center=options.center is None, stripes=options.stripes != "none")
        if options.zingers:
            zingers.warm_up()
        workers = Workers(
            outlet,
            options.workers,
            worker_timeout_s=options.worker_timeout_s,
            patience_s=options.reconnect_timeout_s,
        )
        # whoever goes on does not wait: the DAQ does, and workers that have gone on come back
        while store is None and not (workers.enough and (ranks is None or ranks.enough)):
            if stop.is_set():
                return
            workers.serve()
            if ranks is not None:
                ranks.serve()
            wait_any(_parties(workers, ranks), _WAIT_S)
        flow = f"distributor-{uuid.uuid4().hex[:8]}" if store is None else store.flow
        inlet = stack.enter_context(
            Inlet(
                options.connect,
                flow=flow,
                credits=options.credits or FIRST_CREDITS,
                connect_timeout_s=options.connect_timeout_s,
                reconnect_timeout_s=options.reconnect_timeout_s,
            )
        )
        while store is None and not inlet.await_welcome(_WAIT_S):
            if stop.is_set():
                return
        if store is None:
            description = ScanDescription.from_mapping(inlet.description)
            _check(options, description, 0 if ranks is None else ranks.size)
            store = ScanStore.create(options.state_dir, description, flow=flow, sender=inlet.sender)
            stack.enter_context(store)
        elif store.count:
            logger.warning("going on with %s after %d projections", store.description.name, store.count)
        if options.state_dir is not None:
            stack.enter_context(Syncing(store))
        shares = shares_of(store.description, options.memory, options.credits)
        workers.under_way_bytes = shares.under_way_bytes
        inlet.grant(shares.credits)
        calibrator = stack.enter_context(
            Calibrator(
                store.attenuation,
                store.angles_rad,
                center=options.center is None,
                stripes=None if options.stripes == "none" else options.stripes,
            )
        )
        _Distribution(options, store, inlet, workers, ranks, calibrator, report).run(stop)


class _Distribution:
    """One scan on its way from the DAQ to the workers."""

    def __init__(
        self,
        options: DistributeOptions,
        store: ScanStore,
        inlet: Inlet,
        workers: Workers,
        ranks: Ranks | None,
        calibrator: Calibrator,
        report: Report,
    ) -> None:
        self._options = options
        self._store = store
        self._description = store.description
        self._inlet = inlet
        self._workers = workers
        self._ranks = ranks
        self._calibrator = calibrator
        self._report = report
        self._corrector = Corrector(store.description, trimmed=options.zingers > 0)
        self._zingers = None
        if options.zingers:
            self._zingers = ZingerRemover(
                store.attenuation, store.angles_rad, count=store.count, threshold=options.zingers
            )
        flat, dark = store.fields
        self._corrector.flat_fields.restore(*flat)
        self._corrector.dark_fields.restore(*dark)
        self._duplicates = 0
        self._center = options.center
        self._estimated = False
        self._ended_early: str | None = None
        # messages of the DAQ, and how many projections the workers must be through before it gets its credit
        self._unacknowledged: deque[tuple[int, int]] = deque()
        self._known = False
        self._ended = self._last_asked = self._settled = False
        self._started_s = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        """Distribute until all slices are written, or until `stop`."""
        workers, ranks = self._workers, self._ranks
        workers.open_scan(self._store, self._center)
        if ranks is not None:
            ranks.open_scan(self._store, self._center)
        self._calibrator.arrived(self._store.count)
        while not stop.is_set():
            workers.serve()
            more = workers.feed()
            if ranks is not None:
                ranks.serve(others=len(workers) > 0)
                ranks.feed()
            self._acknowledge()
            self._calibrate()
            more = self._receive() or more
            if self._ended and self._is_settled() and self._conclude():
                break
            if not more:
                wait_s = _WAIT_FOR_ESTIMATE_S if self._calibrator.busy else _WAIT_S
                parties = _parties(workers, ranks)
                wait_any(parties if self._ended else [self._inlet, *parties], wait_s)
        else:
            return
        parts = workers.parts()
        workers.finish()
        # everything is written: whoever says no good-bye is waited for no longer than if it were lost
        give_up_at_s = time.monotonic() + self._options.worker_timeout_s
        while not self._all_left() and time.monotonic() < give_up_at_s:
            if stop.is_set():
                return
            wait_any(_parties(workers, ranks), _WAIT_S)
        self._store.remove()
        self._report({"event": "done", **self._summary(), "parts": parts})
        failure = None if ranks is None else ranks.failure()
        if failure is not None:
            raise failure

    def _conclude(self) -> bool:
        """Tell all who have everything that this was all; tell whether all slices are written."""
        ranks_done = self._ranks is None or self._ranks.conclude()
        return self._workers.conclude() and ranks_done

    def _all_left(self) -> bool:
        """Serve those whose farewell is missing; tell whether all have gone."""
        if self._ranks is not None:
            self._ranks.serve(others=True)
        return self._workers.look_after_leaving(0) and (self._ranks is None or self._ranks.gone)

    def _receive(self) -> bool:
        """Take one item from the DAQ; tell whether there was one."""
        try:
            item = self._inlet.receive(0)
        except ConnectionFailed as error:
            if self._ended:
                return False
            if not self._store.complete:
                raise
            # it may have ended before this process was started, or while it was away
            logger.warning("the DAQ does not answer, but everything it had to send is here: %s", error)
            item = Ended(0)
        if not self._known and self._inlet.sender:
            self._check_sender()
        if isinstance(item, Ended):
            # again and again: the DAQ learns like this what is acknowledged
            news, self._ended = not self._ended, True
            self._store.end()
            return news
        match item:
            case Message():
                self._take(item)
            case Notice(message={"kind": kind, "reason": reason}) if kind == ENDED_EARLY:
                self._ended_early = str(reason)
            case _:
                # a DAQ of a later version may tell more
                pass
        return item is not None

    def _check_sender(self) -> None:
        self._known = True
        if self._inlet.sender != self._store.sender:
            raise InputError(
                f"the state directory holds {self._store.count} projections of {self._description.name} "
                "which another DAQ had sent, or this one before it was started again: give another "
                "--state-dir, or remove what is in this one"
            )

    def _take(self, message: Message) -> None:
        frame = timage.decode(message.payload, self._description.pixel_type)
        expected = self._store.next_sequence
        if self._store.shortened and frame.sequence > expected:
            raise InputError(
                f"frames {expected} to {frame.sequence - 1} had been acknowledged when this host went down, "
                "and were not on the disk: start the scan again"
            )
        if frame.sequence < expected:
            self._duplicates += 1
        else:
            corrector = self._corrector
            invalid = corrector.invalid_pixels
            attenuation = corrector.take(frame)
            if attenuation is None:
                flats, darks = corrector.flat_fields, corrector.dark_fields
                self._store.set_fields(frame.sequence, (flats.count, flats.sums), (darks.count, darks.sums))
            elif self._store.count == self._description.projections:
                raise ProtocolError(
                    f"the DAQ sends more than the {self._store.count} projections that it has announced"
                )
            else:
                invalid = corrector.invalid_pixels - invalid
                if self._zingers is not None:
                    self._zingers.clean(attenuation, frame.angle_rad, self._store.count)
                self._store.add(frame.sequence, frame.angle_rad, attenuation, invalid=invalid)
                self._calibrator.arrived(self._store.count)
                self._report({"event": "progress", **self._progress()})
        self._unacknowledged.append((message.sequence, self._store.count))

    def _acknowledge(self) -> None:
        """Give the DAQ the credits back for what every worker has done with."""
        done = self._workers.done
        if self._ranks is not None:
            done = min(done, self._ranks.done)
        last = None
        while self._unacknowledged and self._unacknowledged[0][1] <= done:
            last, _ = self._unacknowledged.popleft()
        if last is not None:
            self._inlet.acknowledge(last)

    def _calibrate(self) -> None:
        """Tell the workers an estimate, if there is a new one."""
        calibration = self._calibrator.newest()
        if calibration is None:
            return
        if calibration.rotation_center is not None:
            self._center = calibration.rotation_center
            self._estimated = True
        self._workers.calibrate(calibration, self._center)
        if self._ranks is not None:
            self._ranks.calibrate(calibration, self._center)

    def _is_settled(self) -> bool:
        """Whether the estimate from all views has been made, and told."""
        if not self._last_asked:
            self._last_asked = True
            self._calibrator.begin_last()
        if not self._settled and not self._calibrator.busy:
            self._settled = True
            if self._ended_early is not None:
                logger.info(
                    "the DAQ has ended early, after %d projections: %s", self._store.count, self._ended_early
                )
            elif self._store.count < self._description.projections:
                logger.warning(
                    "the DAQ has announced %d projections and sent %d",
                    self._description.projections,
                    self._store.count,
                )
            if self._center is None:
                self._center = (self._description.columns - 1) / 2
                logger.warning(
                    "the rotation centre could not be found; the middle, column %.1f, is taken. Give "
                    "--center if you know it",
                    self._center,
                )
        return self._settled

    def _progress(self) -> dict[str, Any]:
        return {
            "projections_received": self._store.count,
            "projections_total": self._description.projections,
            "rotation_center": self._center,
            "workers": len(self._workers),
            **({} if self._ranks is None else {"ranks": self._ranks.present}),
        }

    def _summary(self) -> dict[str, Any]:
        return {
            **self._progress(),
            "flat_fields": self._corrector.flat_fields.count,
            "dark_fields": self._corrector.dark_fields.count,
            "invalid_pixels": self._store.invalid_pixels,
            "zinger_pixels": 0 if self._zingers is None else self._zingers.removed,
            "rotation_center_estimated": self._estimated,
            "duplicates_dropped": self._duplicates + self._inlet.duplicates,
            "frames_retransmitted": self._workers.outlet.retransmitted,
            "workers_joined": self._workers.joined,
            "workers_lost": self._workers.lost,
            "seconds": time.monotonic() - self._started_s,
            **({} if self._ended_early is None else {"ended_early": self._ended_early}),
        }


def _parties(workers: Workers, ranks: Ranks | None) -> list[Party]:
    """Return those whom workers come to."""
    return [workers.outlet] if ranks is None else [workers.outlet, ranks.server]


def _check(options: DistributeOptions, description: ScanDescription, ranks: int) -> None:
    for count in (options.workers, ranks):
        if count > description.rows:
            raise InputError(
                f"{count} workers for {description.rows} detector rows: each worker needs at least one"
            )
    if options.center is not None and not -0.5 <= options.center <= description.columns - 0.5:
        raise InputError(
            f"the rotation centre {options.center:g} is not on the detector, whose columns are 0 to"
            f" {description.columns - 1}"
        )
