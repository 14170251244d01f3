"""How the kernels' threads wait for each other."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
from ministream.kernels.total_variation import warm_up
warm_up()
import numba
print(numba.threading_layer())
"""


@pytest.mark.parametrize(("asked_for", "expected"), [(None, "PASSIVE"), ("active", "ACTIVE")])
def test_threads_of_openmp_wait_asleep_unless_the_user_has_said_otherwise(
    asked_for: str | None, expected: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    # OpenMP tells its settings when it is loaded
    environment |= {"OMP_DISPLAY_ENV": "true"} | ({"OMP_WAIT_POLICY": asked_for} if asked_for else {})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    if done.stdout.strip() != "omp":
        pytest.skip(f"numba's threads are those of {done.stdout.strip()}")
    assert f"OMP_WAIT_POLICY = '{expected}'" in done.stderr
