"""What a run is asked to do, and the command lines of the stages that do it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from ministream.sources import SourceOptions
from ministream.stages.host_memory import SHARE, free_bytes

LOOPBACK = "tcp://127.0.0.1:0"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What to run. The defaults stand at the command's options, nowhere else.

    Parameters
    ----------
    source : str
        As `ministream.sources.open_source` takes it.
    reading : SourceOptions
        How to read it.
    out : Path
        Folder of the results; made if it is missing.
    workers, channels : int
        Reconstruction workers; channels of the session.
    data_server : str
        Installed data server that both gateways use.
    rate : float
        Projections per second, 0 for as fast as possible; a detector has its own.
    order : str
        Order in which the views are played; a detector has its own.
    algorithm : str
    window, step, iterations, refine : int
    total_variation : float
    allow_negative : bool
    first_image : str
    center : float or None
        A column index, or None to find it.
    stripes : str
    zingers : float
    steer : bool
        End the scan when the quality stage says that there have been enough projections.
    tolerance : float
        Change of the image below which that is so.
    plot : Path or None
        Where the quality stage draws its figures over the projections.
    """

    source: str
    reading: SourceOptions
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
    total_variation: float
    allow_negative: bool
    first_image: str
    center: float | None
    stripes: str
    zingers: float
    steer: bool
    tolerance: float
    plot: Path | None


def daq(options: RunOptions, truth: Path | None) -> list[str]:
    """Return the command of the DAQ; it writes the ground truth to `truth`."""
    return [
        *_program("daq", options.source, "--listen", LOOPBACK),
        *("--rate", f"{options.rate:g}", "--order", options.order),
        *_optional("--truth", truth),
        *_optional("--steer", LOOPBACK if options.steer else None),
        *_reading(options.reading),
    ]


def distribute(
    options: RunOptions,
    daq_addresses: Sequence[str],
    state_dir: Path,
    listen: str = LOOPBACK,
    key_file: Path | None = None,
) -> list[str]:
    """Return the command of the distributor, which reaches the DAQ at these addresses."""
    return [
        *_program("distribute", "--listen", listen, *_connections(daq_addresses)),
        *("--state-dir", str(state_dir)),
        *("--workers", str(options.workers), "--stripes", options.stripes),
        *("--zingers", f"{options.zingers:g}"),
        *("--center", "auto" if options.center is None else str(options.center)),
        *_optional("--link-key", key_file),
    ]


def reconstruct(options: RunOptions, distributor: str, output: Path, publish: str = LOOPBACK) -> list[str]:
    """Return the command of a worker on this host; together the workers use every core, and memory, once."""
    threads = max(1, len(os.sched_getaffinity(0)) // options.workers)
    memory = int(SHARE * free_bytes() / options.workers)
    return [
        *placed_reconstruct(options, distributor),
        *("--publish", publish, "--threads", str(threads), "--memory", str(memory)),
        *("--output", str(output)),
    ]


def placed_reconstruct(options: RunOptions, distributor: str) -> list[str]:
    """Return the part of a worker's command that does not depend on the host where it runs."""
    return [
        *_program("reconstruct", "--connect", distributor),
        *("--algorithm", options.algorithm, "--window", str(options.window), "--step", str(options.step)),
        *("--iterations", str(options.iterations), "--refine", str(options.refine)),
        *("--total-variation", f"{options.total_variation:g}", "--first-image", options.first_image),
        *(["--allow-negative"] if options.allow_negative else []),
    ]


def quality(
    options: RunOptions,
    publishers: Sequence[str],
    truth: Path | None,
    *,
    projections: int,
    stop_daq: str | None = None,
    key_file: Path | None = None,
) -> list[str]:
    """Return the command of the live quality stage, for a scan of so many projections."""
    return [
        *_program("quality", *_connections(publishers)),
        *_optional("--reference", truth),
        *("--projections", str(projections), "--order", options.order),
        *("--tolerance", f"{options.tolerance:g}"),
        *_optional("--stop-daq", stop_daq),
        *_optional("--plot", options.plot),
        *_optional("--link-key", key_file),
    ]


def _program(stage: str, *arguments: str) -> list[str]:
    # -P: no module of the user's working directory takes the place of one of ours
    return [sys.executable, "-P", "-m", "ministream", stage, "--json", *arguments]


def _connections(addresses: Sequence[str]) -> list[str]:
    return [argument for address in addresses for argument in ("--connect", address)]


def _reading(reading: SourceOptions) -> list[str]:
    """Return the DAQ's options that say how to read a scan, but for those that stand at their defaults."""
    default = SourceOptions()
    arguments = []
    for entry in fields(SourceOptions):
        value = getattr(reading, entry.name)
        if value == getattr(default, entry.name):
            continue
        option = _READING.get(entry.name, "--" + entry.name.replace("_", "-"))
        match value:
            case True:
                arguments.append(option)
            case (first, count):
                arguments += [option, f"{first}:{first + count}"]
            case _:
                arguments += [option, str(value)]
    return arguments


_READING = {"buffer_mib": "--buffer", "idle_timeout_s": "--idle-timeout"}
"""Options that are not named as what they set."""


def _optional(option: str, value: object) -> list[str]:
    return [] if value is None else [option, str(value)]
