"""What a run tells: its progress while it goes, and its verdict at the end. Values only, no display."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Progress:
    """How far a run has come; one object, updated in place.

    Parameters
    ----------
    phase : str
        What is going on, in a few words.
    projections_total, projections_sent, projections_received, projections_reconstructed : int
        Of the scan; by the DAQ; at the distributor; by every reconstruction worker (the slowest counts).
    updates : int
        Reconstruction updates so far (of the slowest worker).
    session_bytes, session_bytes_per_s : int, float
        Application bytes through the session's channels, producer to consumer; and the rate of late.
    rotation_center : float or None
        In detector columns, once it is known.
    quality : dict
        The newest figures of the quality stage, by name.
    warnings : list of str
        What the programs have warned of so far.
    """

    phase: str = "starting"
    projections_total: int = 0
    projections_sent: int = 0
    projections_received: int = 0
    projections_reconstructed: int = 0
    updates: int = 0
    session_bytes: int = 0
    session_bytes_per_s: float = 0.0
    rotation_center: float | None = None
    quality: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


Observer = Callable[[Progress], None]
"""Called whenever the progress has changed, from the event loop; must return at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a run has done, for people and for machines.

    Parameters
    ----------
    complete : bool
        Every projection of the scan was sent, received and reconstructed exactly once; of one that was ended
        because more were not wanted, every one until then.
    ended_early : str or None
        Why more projections were not wanted; None where the scan went on to its end.
    projections_expected, projections_sent, projections_received, projections_reconstructed : int
    bytes : int
        Application bytes that the session carried from producer to consumer, as the gateways counted them.
    bytes_per_s : float
        The same over the time from the first projection sent to the last received.
    encrypted : bool
        Both gateways report mutually authenticated TLS 1.3 between them.
    setup_seconds : float
        From the first REQ to both data servers forwarding.
    stream_seconds : float
        From the first projection sent to the last reconstruction update.
    rotation_center : float
        In detector columns; the middle of column 0 is 0.
    rotation_center_estimated : bool
        It was found from the scan, neither given nor the middle for want of better.
    invalid_pixels : int
        Pixels of projections that had no attenuation, and were interpolated.
    ssim : float or None
        Mean over the slices of the structural similarity to the ground truth, where that is known.
    quality : dict
        Every figure of the final volume, by name.
    frames_retransmitted, duplicates_dropped : int
        Frames that were sent again because a connection was lost; those that had arrived before.
    workers_lost : int
        Workers whose slices went to others.
    programs_restarted : int
        How often a program that was killed was started again.
    updates, workers, channels : int
    data_server, algorithm, source : str
    volume, picture, quality_file : str
        Paths of the results.
    warnings : list of str
        What the programs have warned of.
    """

    complete: bool
    ended_early: str | None
    projections_expected: int
    projections_sent: int
    projections_received: int
    projections_reconstructed: int
    bytes: int
    bytes_per_s: float
    encrypted: bool
    setup_seconds: float
    stream_seconds: float
    rotation_center: float
    rotation_center_estimated: bool
    invalid_pixels: int
    ssim: float | None
    quality: dict[str, Any]
    frames_retransmitted: int
    duplicates_dropped: int
    workers_lost: int
    programs_restarted: int
    updates: int
    workers: int
    channels: int
    data_server: str
    algorithm: str
    source: str
    volume: str
    picture: str
    quality_file: str
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return a copy that JSON can hold."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the one-line verdict."""
        counts = (
            f"{self.projections_sent} projections sent = {self.projections_received} received"
            f" = {self.projections_reconstructed} reconstructed"
            if self.complete
            else f"INCOMPLETE: of {self.projections_expected} projections {self.projections_sent} sent,"
            f" {self.projections_received} received, {self.projections_reconstructed} reconstructed"
        )
        if self.ended_early is not None:
            counts += f" of {self.projections_expected}, more were not needed: {self.ended_early}"
        parts = [
            counts,
            f"{self.bytes / 1e6:.2f} MB at {self.bytes_per_s / 1e6:.2f} MB/s"
            f" {'encrypted (TLS 1.3)' if self.encrypted else 'NOT ENCRYPTED'}",
            f"{self.stream_seconds:.1f} s from first projection to last update",
        ]
        if self.ssim is not None:
            parts.append(f"SSIM {self.ssim:.3f} against the truth")
        if self.frames_retransmitted or self.duplicates_dropped:
            parts.append(
                f"{self.frames_retransmitted} frames sent again, {self.duplicates_dropped} duplicates dropped"
            )
        if self.workers_lost:
            parts.append(f"{self.workers_lost} workers lost")
        if self.programs_restarted:
            parts.append(f"{self.programs_restarted} programs started again")
        if self.warnings:
            parts.append(f"{len(self.warnings)} warnings")
        return "; ".join(parts)
