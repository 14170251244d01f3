"""Reconstruction workers on other hosts: Dask places them, ours watches them, ZeroMQ carries the frames.

Dask is an extra (``ministream[cluster]``) and imported when a cluster is opened, not before.
"""

from ministream.cluster.options import ClusterOptions, Kind
from ministream.cluster.placement import placing
from ministream.cluster.reconstruct import PlacedOptions, reconstruct

__all__ = ["ClusterOptions", "Kind", "PlacedOptions", "placing", "reconstruct"]
