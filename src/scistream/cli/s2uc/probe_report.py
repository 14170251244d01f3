"""What ``s2uc probe`` has found: one JSON object, or lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from scistream.cli.output import print_json
from scistream.cli.show import count

if TYPE_CHECKING:
    from scistream.client.probe import Assessment, Measurement, Plan, RoundTrip, Workload
    from scistream.core.endpoint import Endpoint


def show_report(
    measurement: Measurement,
    plan: Plan,
    *,
    uid: str | None,
    listeners: Sequence[Endpoint],
    encrypted: bool | None,
    seconds: float,
    as_json: bool,
) -> None:
    """Print what was measured, and what it means for `plan`."""
    assessment = plan.assess(measurement.to_consumer_gbps)
    addresses = list(map(str, listeners))
    if as_json:
        print_json(
            uid=uid,
            listeners=addresses,
            encrypted=encrypted,
            seconds=seconds,
            **asdict(measurement),
            **asdict(assessment),
        )
        return
    tls = {None: "", True: ", TLS between the gateways", False: ", no TLS between the gateways"}[encrypted]
    through = f"{count(len(listeners), 'channel')}, {count(measurement.connections, 'connection')}{tls}"
    lines = [
        ("session", uid or " ".join(addresses)),
        ("through", through),
        ("producer → consumer", f"{measurement.to_consumer_gbps:.3g} Gb/s"),
        ("consumer → producer", f"{measurement.to_producer_gbps:.3g} Gb/s"),
        ("round trip", _round_trip(measurement.round_trip)),
        *_assessed(plan, assessment),
    ]
    for name, text in lines:
        click.echo(f"{name:19}  {text}")


def _round_trip(times: RoundTrip) -> str:
    return (
        f"median {times.p50_ms:.3g} ms, 90 % {times.p90_ms:.3g} ms, 99 % {times.p99_ms:.3g} ms, "
        f"from {times.min_ms:.3g} to {times.max_ms:.3g} ms ({times.samples} messages)"
    )


def _assessed(plan: Plan, found: Assessment) -> Iterator[tuple[str, str]]:
    if found.alpha is not None:
        yield "share of the line", f"alpha = {found.alpha:.3g} of {plan.bandwidth_gbps:g} Gb/s"
    if found.keep_up_factor is not None:
        verdict = "is fast enough" if found.keep_up_factor >= 1 else "is TOO SLOW"
        yield (
            "detector",
            f"{plan.data_rate_gbps:g} Gb/s: the session {verdict}, {found.keep_up_factor:.3g} times its rate",
        )
    if plan.workload is not None and found.local_s is not None and found.streaming_s is not None:
        yield "completion", _work(plan.workload)
        yield "  local", f"{found.local_s:.4g} s"
        yield "  remote, streaming", _against(found.streaming_s, found.local_s)
        if found.files_s is not None:
            yield "  remote, files", f"{_against(found.files_s, found.local_s)}; theta = {plan.theta:g}"
        yield "  break-even", _break_even(found.break_even_gbps, found.break_even_alpha)
        if found.files_break_even_gbps is not None:
            yield "", _break_even(found.files_break_even_gbps, found.files_break_even_alpha, what="files")


def _work(work: Workload) -> str:
    return (
        f"of {work.data_gb:g} GB with {work.flop_per_gb:g} FLOP/GB, at {work.local_flops:g} FLOP/s local, "
        f"{work.remote_flops:g} remote (r = {work.remote_flops / work.local_flops:.3g})"
    )


def _against(remote_s: float, local_s: float) -> str:
    faster = local_s / remote_s
    comparison = f"{faster:.3g} times as fast" if faster >= 1 else f"{1 / faster:.3g} times as slow"
    return f"{remote_s:.4g} s, {comparison} as local"


def _break_even(gbps: float | None, share: float | None, *, what: str = "streaming") -> str:
    if gbps is None:
        return "none: the other facility computes no faster, so local is first at any rate"
    alpha = "" if share is None else f" (alpha = {share:.3g})"
    never = ", more than the line carries" if share is not None and share > 1 else ""
    return f"{what} is done before local above {gbps:.3g} Gb/s{alpha}{never}"
