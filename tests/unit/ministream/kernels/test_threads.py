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


@pytest.mark.parametrize(("asked_for", "expected"), [(None, "= '0'"), ("active", "= '30000000000'")])
def test_threads_of_openmp_wait_asleep_unless_the_user_has_said_otherwise(
    asked_for: str | None, expected: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    # OpenMP tells its settings when it is loaded
    environment |= {"OMP_DISPLAY_ENV": "verbose"} | ({"OMP_WAIT_POLICY": asked_for} if asked_for else {})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    if done.stdout.strip() != "omp":
        pytest.skip(f"numba's threads are those of {done.stdout.strip()}")
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this OpenMP is not GNU's, the only one that tells how long it spins")
    assert f"GOMP_SPINCOUNT {expected}" in done.stderr
