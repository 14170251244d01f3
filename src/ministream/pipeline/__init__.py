"""The main job, composed: a scan streams through two gateways and is reconstructed while it is measured."""

from ministream.pipeline.commands import RunOptions
from ministream.pipeline.placement import Named, Place, Placement, Site, Worker
from ministream.pipeline.report import Observer, Progress, Verdict
from ministream.pipeline.run import run

__all__ = [
    "Named",
    "Observer",
    "Place",
    "Placement",
    "Progress",
    "RunOptions",
    "Site",
    "Verdict",
    "Worker",
    "run",
]
