"""What can be asked of a cluster, and what cannot."""

from __future__ import annotations

from typing import Any

import pytest

from ministream.cluster import ClusterOptions, Kind
from ministream.errors import InputError


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("local", Kind.LOCAL),
        ("slurm", Kind.SLURM),
        ("pbs", Kind.PBS),
        ("tls://scheduler.example.org:8786", Kind.RUNNING),
        ("tcp://127.0.0.1:8786", Kind.RUNNING),
    ],
)
def test_where_says_who_starts_dask_workers(where: str, kind: Kind) -> None:
    assert ClusterOptions(where=where, workers=2).kind is kind


@pytest.mark.parametrize(
    "where", ["moon", "tcp://host", "udp://host:1", "tls://:8786", "tls://[::1:8786", ""]
)
def test_anything_else_is_refused(where: str) -> None:
    with pytest.raises(InputError, match="give slurm, pbs, local, or the address"):
        ClusterOptions(where=where, workers=2)


def test_a_scheduler_in_the_clear_beyond_this_host_needs_leave() -> None:
    with pytest.raises(InputError, match=r"can run programs as you .* or --insecure"):
        ClusterOptions(where="tcp://10.0.0.1:8786", workers=2)
    assert ClusterOptions(where="tcp://10.0.0.1:8786", workers=2, insecure=True).kind is Kind.RUNNING


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"queue": "short"}, "--partition"),
        ({"account": "me"}, "--account"),
        ({"walltime": "1:00:00"}, "--walltime"),
        ({"cores": 2}, "--cores"),
        ({"memory": "1GB"}, "--memory"),
        ({"job_extra": ("--nice",)}, "--job-extra"),
    ],
)
@pytest.mark.parametrize("where", ["local", "tls://host:8786"])
def test_what_jobs_have_others_have_not(where: str, given: dict[str, Any], option: str) -> None:
    assert ClusterOptions(where="slurm", workers=2, **given).workers == 2
    with pytest.raises(InputError, match=f"{option} is for jobs"):
        ClusterOptions(where=where, workers=2, **given)
