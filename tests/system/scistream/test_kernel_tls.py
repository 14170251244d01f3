"""TLS by the kernel, in a kernel that has it: the contract of data servers once more, inside User-mode Linux.

Where the machine's own kernel has TLS the same tests run on it as well, among all others.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.user_mode_linux import PROGRAM, run_inside

_CONTRACT = "tests/contract/scistream"


@pytest.mark.peer(PROGRAM)
@pytest.mark.timeout(400)
def test_the_contract_holds_where_the_kernel_has_tls(tmp_path: Path) -> None:
    outcome = run_inside(
        tmp_path,
        [
            f"{_CONTRACT}/test_kernel_tls.py",
            f"{_CONTRACT}/test_encryption.py",
            f"{_CONTRACT}/test_native_streams.py",
            f"{_CONTRACT}/test_streams.py",
            f"{_CONTRACT}/test_native_endurance.py",
            f"{_CONTRACT}/test_pacing.py",
            "-k",
            # not what tests other things than streams and TLS, and takes long
            "(native-kernel and not native-kernel-plain and not hundreds and not test_a_target)"
            " or (stalls_for_longer and not plain) or encrypted_session",
            "--durations=12",
        ],
        timeout_s=380,
    )
    assert outcome.status == 0, outcome.output
    assert " skipped" not in outcome.output
    for way in ("TlsTxSw", "TlsRxSw"):
        assert outcome.tls_stat[way] > 100, "the kernel has sealed and opened"
    assert outcome.tls_stat["TlsCurrTxSw"] == outcome.tls_stat["TlsCurrRxSw"] == 0, "all were given back"
