"""How much memory there is, how much slices need, and what is said when that is more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ministream.errors import InputError
from ministream.stages.host_memory import free_bytes, peak_bytes, shown
from ministream.stages.memory import Budget, Demand, room_of

GIB = 1 << 30
DEMAND = Demand(algorithm="sirt", columns=2048, projections=1500, threads=8)


def test_slices_need_at_least_their_volume_and_their_views() -> None:
    volume, views = 4 * 2048**2, 4 * 1500 * 2048
    one, ten = DEMAND.bytes_for(1), DEMAND.bytes_for(10)
    assert ten - one >= 9 * (volume + views)
    # the rest does not grow with the slices
    assert DEMAND.bytes_for(200) < 1.2 * 200 * (volume + views) + GIB


@pytest.mark.parametrize("budget", [0, GIB, 8 * GIB, 1 << 40])
def test_what_fits_is_the_most_that_fits(budget: int) -> None:
    fit = DEMAND.slices_in(budget, 2048)
    assert fit == 0 or DEMAND.bytes_for(fit) <= budget
    assert fit == 2048 or DEMAND.bytes_for(fit + 1) > budget


def test_what_does_not_fit_is_refused_with_the_numbers() -> None:
    budget = Budget(limit_bytes=8 * GIB, base_bytes=GIB, told=True)
    fit = DEMAND.slices_in(7 * GIB, 2048)
    budget.check(DEMAND, fit, "scan")
    with pytest.raises(InputError) as refused:
        budget.check(DEMAND, 1000, "scan.h5")
    told = str(refused.value)
    assert f"1000 slices of scan.h5 need {shown(DEMAND.bytes_for(1000))}" in told
    assert "7 GiB are left of 8 GiB (--memory) beside the 1 GiB of the program" in told
    assert f"{fit} would fit" in told
    assert f"start {-(-1000 // fit)} workers of this size" in told
    assert "binned by two" in told


def test_by_default_a_share_of_what_is_free_is_used() -> None:
    budget = Budget.of_this_process(None)
    assert 0 < budget.base_bytes < budget.limit_bytes <= budget.base_bytes + 0.81 * free_bytes() + (64 << 20)
    assert Budget.of_this_process(1).for_slices == 0


def test_a_control_group_limits_what_is_free(tmp_path: Path) -> None:
    own = Path("/proc/self/cgroup").read_text().splitlines()[0].split(":", 2)[2].lstrip("/")
    free = free_bytes(cgroup=tmp_path)
    for folder in (tmp_path, tmp_path / "memory"):
        (folder / own).mkdir(parents=True, exist_ok=True)
        for name in ("memory.max", "memory.limit_in_bytes"):
            (folder / name).write_text(f"{100 << 20}\n")
        for name in ("memory.current", "memory.usage_in_bytes"):
            (folder / name).write_text(f"{60 << 20}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {20 << 20}\n")
    assert free_bytes(cgroup=tmp_path) == 60 << 20
    for folder in (tmp_path, tmp_path / "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            (folder / name).write_text("max\n")
    assert free_bytes(cgroup=tmp_path) == pytest.approx(free, rel=0.3)


def test_the_peak_is_that_of_this_process() -> None:
    before = peak_bytes()
    room = np.ones(32 << 20, np.uint8)
    assert peak_bytes() >= before
    assert peak_bytes() > room.nbytes


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"memory": "much", "algorithm": "sirt"},
        {"memory": -1, "algorithm": "sirt"},
        {"memory": True, "algorithm": "sirt"},
        {"memory": GIB, "algorithm": 3},
        {"memory": GIB, "algorithm": "of another version"},
    ],
)
def test_who_has_said_nothing_usable_has_no_limit(said: dict[str, object]) -> None:
    assert room_of(said, columns=2048, projections=1500, most=100) is None


def test_who_has_said_it_gets_what_fits() -> None:
    said = {"memory": 2 * GIB, "algorithm": "sirt", "threads": 8, "credits": None}
    assert room_of(said, columns=2048, projections=1500, most=2048) == DEMAND.slices_in(2 * GIB, 2048)
    assert room_of(said, columns=32, projections=10, most=7) == 7
