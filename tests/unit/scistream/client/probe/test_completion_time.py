"""Completion times against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from scistream.client.probe.completion_time import (
    Assessment,
    Plan,
    Workload,
    alpha,
    break_even_gbps,
    local_time_s,
    remote_time_s,
    transfer_time_s,
)
from scistream.errors import ConfigurationError

# 100 GB with 1e13 FLOP each: 1e15 FLOP, so 1000 s here and 10 s there
WORK = Workload(data_gb=100, flop_per_gb=1e13, local_flops=1e12, remote_flops=1e14)


def test_100_gb_with_1e13_flop_each_take_1000_s_at_1e12_flop_per_s() -> None:
    assert local_time_s(WORK) == pytest.approx(1000, rel=1e-12)


def test_100_gb_are_800_gb_of_bits_so_they_take_100_s_at_8_gbps_and_three_times_that_with_theta_3() -> None:
    assert transfer_time_s(100, 8) == pytest.approx(100, rel=1e-12)
    assert transfer_time_s(100, 8, 3) == pytest.approx(300, rel=1e-12)


def test_remote_is_transfer_and_computation_one_after_the_other() -> None:
    assert remote_time_s(WORK, 8) == pytest.approx(110, rel=1e-12)
    assert remote_time_s(WORK, 8, 3) == pytest.approx(310, rel=1e-12)


def test_break_even_is_where_what_computing_saves_pays_for_the_transfer() -> None:
    # 990 s are saved, in which 800 Gb have to pass: 800 / 990 Gb/s
    assert break_even_gbps(WORK) == pytest.approx(800 / 990, rel=1e-12)
    assert break_even_gbps(WORK, 3) == pytest.approx(2400 / 990, rel=1e-12)


@pytest.mark.parametrize("theta", [1, 1.5, 7])
@pytest.mark.parametrize("data_gb", [0.001, 1, 5000])
def test_at_break_even_both_are_done_at_the_same_time_whatever_the_size(theta: float, data_gb: float) -> None:
    work = Workload(data_gb=data_gb, flop_per_gb=3e12, local_flops=2e11, remote_flops=9e12)
    rate_gbps = break_even_gbps(work, theta)
    assert rate_gbps is not None
    assert remote_time_s(work, rate_gbps, theta) == pytest.approx(local_time_s(work), rel=1e-12)
    assert remote_time_s(work, 1.01 * rate_gbps, theta) < local_time_s(work)


@pytest.mark.parametrize("remote_flops", [1e12, 9e11])
def test_a_facility_that_computes_no_faster_is_never_first(remote_flops: float) -> None:
    work = Workload(data_gb=1, flop_per_gb=1e12, local_flops=1e12, remote_flops=remote_flops)
    assert break_even_gbps(work) is None
    assert Plan(workload=work, bandwidth_gbps=10).assess(8).break_even_alpha is None


def test_alpha_is_the_share_of_the_bandwidth() -> None:
    assert alpha(8, 10) == pytest.approx(0.8, rel=1e-12)


def test_a_plan_is_assessed_as_far_as_it_says() -> None:
    whole = Plan(workload=WORK, theta=3, bandwidth_gbps=10, data_rate_gbps=4).assess(8)
    expected = {
        "alpha": 0.8,
        "keep_up_factor": 2,
        "local_s": 1000,
        "streaming_s": 110,
        "files_s": 310,
        "break_even_gbps": 800 / 990,
        "break_even_alpha": 80 / 990,
        "files_break_even_gbps": 2400 / 990,
        "files_break_even_alpha": 240 / 990,
    }
    for name, value in expected.items():
        assert getattr(whole, name) == pytest.approx(value, rel=1e-12), name
    assert Plan().assess(8) == Assessment()
    assert Plan(data_rate_gbps=16).assess(8) == Assessment(keep_up_factor=0.5)
    without_files = Plan(workload=WORK).assess(8)
    assert (without_files.files_s, without_files.files_break_even_gbps) == (None, None)
    assert without_files.streaming_s == pytest.approx(110, rel=1e-12)
    assert without_files.break_even_alpha is None


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan])
@pytest.mark.parametrize("name", ["data_gb", "flop_per_gb", "local_flops", "remote_flops"])
def test_a_workload_of_nothing_is_refused_by_name(name: str, value: float) -> None:
    values = {"data_gb": 1.0, "flop_per_gb": 1.0, "local_flops": 1.0, "remote_flops": 1.0, name: value}
    with pytest.raises(ConfigurationError, match=name):
        Workload(**values)


@pytest.mark.parametrize("name", ["bandwidth_gbps", "data_rate_gbps", "theta"])
@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan])
def test_a_plan_with_impossible_values_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Plan(**{name: value})  # type: ignore[arg-type]


def test_a_theta_below_1_is_refused_and_1_is_not() -> None:
    with pytest.raises(ConfigurationError, match=r"theta is 0\.99"):
        remote_time_s(WORK, 8, 0.99)
    assert Plan(theta=1).theta == 1


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="rate_gbps"):
        Plan().assess(0)
