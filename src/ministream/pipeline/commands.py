"""What a run is asked to do, and the command lines of the stages that do it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ministream.stages.host_memory import SHARE, free_bytes

LOOPBACK = "tcp://127.0.0.1:0"


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
    total_variation : float
    allow_negative : bool
    first_image : str
    center : float or None
        A column index, or None to find it.
    stripes : str
    flat_value, dark_value : float or None
        Counts of all flat or dark fields, for a file that has none.
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
    total_variation: float
    allow_negative: bool
    first_image: str
    center: float | None
    stripes: str
    flat_value: float | None = None
    dark_value: float | None = None


def daq(options: RunOptions, truth: Path | None) -> list[str]:
    """Return the command of the DAQ; it writes the ground truth to `truth`."""
    return [
        *_program("daq", options.source, "--listen", LOOPBACK),
        *("--rate", f"{options.rate:g}", "--order", options.order),
        *_optional("--truth", truth),
        *_optional("--flat-value", options.flat_value),
        *_optional("--dark-value", options.dark_value),
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


def quality(publishers: Sequence[str], truth: Path | None, key_file: Path | None = None) -> list[str]:
    """Return the command of the live quality stage."""
    return [
        *_program("quality", *_connections(publishers)),
        *_optional("--reference", truth),
        *_optional("--link-key", key_file),
    ]


def _program(stage: str, *arguments: str) -> list[str]:
    # -P: no module of the user's working directory takes the place of one of ours
    return [sys.executable, "-P", "-m", "ministream", stage, "--json", *arguments]


def _connections(addresses: Sequence[str]) -> list[str]:
    return [argument for address in addresses for argument in ("--connect", address)]


def _optional(option: str, value: object) -> list[str]:
    return [] if value is None else [option, str(value)]
