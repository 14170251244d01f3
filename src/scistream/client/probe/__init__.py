"""What a session gives right now, measured between two probe ends before the applications are started.

The far end listens where the session's target is, in place of the producer's application. The near end
connects to the session's listeners, in place of the consumer's:

>>> import socket
>>> from scistream.client.probe import FarEnd, measure
>>> FarEnd([socket.create_server(("10.0.1.5", 5001))], once=True).serve()  # doctest: +SKIP

>>> measurement = measure(session.listeners, connections=2)  # doctest: +SKIP
>>> print(measurement.to_consumer_gbps, "Gb/s,", measurement.round_trip.p50_ms, "ms")  # doctest: +SKIP

What a rate means for the time until a result is there, by streaming and by files, says `Plan`:

>>> from scistream.client.probe import Plan, Workload
>>> work = Workload(data_gb=100, flop_per_gb=1e13, local_flops=1e12, remote_flops=1e14)
>>> Plan(workload=work, theta=3, bandwidth_gbps=10).assess(8).streaming_s
110.0
"""

from scistream.client.probe.completion_time import Assessment, Plan, Workload
from scistream.client.probe.far_end import FarEnd, FarEvent, FarEventKind
from scistream.client.probe.load import Load
from scistream.client.probe.near_end import Measurement, Progress, RoundTrip, measure, percentile
from scistream.client.probe.protocol import NotAProbe

__all__ = [
    "Assessment",
    "FarEnd",
    "FarEvent",
    "FarEventKind",
    "Load",
    "Measurement",
    "NotAProbe",
    "Plan",
    "Progress",
    "RoundTrip",
    "Workload",
    "measure",
    "percentile",
]
