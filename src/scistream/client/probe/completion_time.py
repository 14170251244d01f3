r"""How long it takes until data of a given size are computed: here, or at the other facility.

The parameters are those of arXiv 2509.19532 [1]_; the formulas are derived from their definitions, not copied
from there:

====================  =================================================  ==================
S                     size of the data                                   GB (10\ :sup:`9` B)
C                     computation per size                               FLOP/GB
R_local, R_remote     rates at which the two facilities compute          FLOP/s
B_w                   bandwidth of the line                              Gb/s
B                     rate that the stream achieves (what a probe says)  Gb/s
alpha = B / B_w       share of the line that it uses                     1
r = R_remote/R_local  how much faster the other facility computes        1
theta                 (T_IO + T_transfer) / T_transfer; streaming has 1  1
====================  =================================================  ==================

::

    T_local  = C S / R_local
    T_remote = theta 8 S / (alpha B_w) + C S / (r R_local)

The 8 makes bits of bytes. Both times are equal at ``alpha = 8 theta / (B_w C (1/R_local - 1/R_remote))``,
whatever the size; if R_remote <= R_local, at none. Transfer and computation are taken as one after the other,
so streaming, where they overlap, is no slower than said here.

References
----------
.. [1] arXiv 2509.19532, on streaming against file transfer between facilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scistream.errors import ConfigurationError

_BITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is to be computed, and how fast either facility computes it.

    Parameters
    ----------
    data_gb : float
        S, in GB of 10^9 bytes.
    flop_per_gb : float
        C, floating-point operations for each GB.
    local_flops, remote_flops : float
        R_local and R_remote, in FLOP/s.

    Raises
    ------
    ConfigurationError
        A value is not a finite number above 0.
    """

    data_gb: float
    flop_per_gb: float
    local_flops: float
    remote_flops: float

    def __post_init__(self) -> None:
        for name in ("data_gb", "flop_per_gb", "local_flops", "remote_flops"):
            _check_positive(name, getattr(self, name))


def local_time_s(work: Workload) -> float:
    """Return T_local = C S / R_local, in seconds."""
    return work.flop_per_gb * work.data_gb / work.local_flops


def transfer_time_s(data_gb: float, rate_gbps: float, theta: float = 1.0) -> float:
    """Return theta 8 S / B, the seconds that `data_gb` take at `rate_gbps` (B = alpha B_w).

    Raises
    ------
    ConfigurationError
        A value is not a finite number above 0, or `theta` is below 1.
    """
    _check_positive("data_gb", data_gb)
    _check_positive("rate_gbps", rate_gbps)
    _check_theta(theta)
    return theta * _BITS * data_gb / rate_gbps


def remote_time_s(work: Workload, rate_gbps: float, theta: float = 1.0) -> float:
    """Return T_remote = theta 8 S / B + C S / R_remote, in seconds; `theta` 1 is streaming.

    Raises
    ------
    ConfigurationError
        `rate_gbps` is not a finite number above 0, or `theta` is below 1.
    """
    computing_s = work.flop_per_gb * work.data_gb / work.remote_flops
    return transfer_time_s(work.data_gb, rate_gbps, theta) + computing_s


def break_even_gbps(work: Workload, theta: float = 1.0) -> float | None:
    """Return the rate B, in Gb/s, above which the other facility is done first; None if it never is.

    8 theta / (C (1/R_local - 1/R_remote)): where T_local = T_remote. Divided by B_w it is the break-even
    alpha.

    Raises
    ------
    ConfigurationError
        `theta` is below 1.
    """
    _check_theta(theta)
    if work.remote_flops <= work.local_flops:
        return None
    gained_s_per_gb = work.flop_per_gb * (1 / work.local_flops - 1 / work.remote_flops)
    return theta * _BITS / gained_s_per_gb


def alpha(rate_gbps: float, bandwidth_gbps: float) -> float:
    """Return B / B_w, the share of the line that is used.

    Raises
    ------
    ConfigurationError
        A value is not a finite number above 0.
    """
    _check_positive("rate_gbps", rate_gbps)
    _check_positive("bandwidth_gbps", bandwidth_gbps)
    return rate_gbps / bandwidth_gbps


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What a rate means for a `Plan`. None stands where the plan does not say enough, and for "never".

    Parameters
    ----------
    alpha : float or None
        Share of the line.
    keep_up_factor : float or None
        Rate of the session over that of the detector: 1 or more keeps up.
    local_s, streaming_s, files_s : float or None
        Completion here, at the other facility by streaming, and there by files.
    break_even_gbps, break_even_alpha : float or None
        From where on streaming is done before computing here.
    files_break_even_gbps, files_break_even_alpha : float or None
        The same for files.
    """

    alpha: float | None = None
    keep_up_factor: float | None = None
    local_s: float | None = None
    streaming_s: float | None = None
    files_s: float | None = None
    break_even_gbps: float | None = None
    break_even_alpha: float | None = None
    files_break_even_gbps: float | None = None
    files_break_even_alpha: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the session is wanted for, as far as it is known.

    Parameters
    ----------
    workload : Workload or None
        What is to be computed.
    theta : float or None
        (T_IO + T_transfer) / T_transfer of a file transfer, 1 or more.
    bandwidth_gbps : float or None
        B_w of the line.
    data_rate_gbps : float or None
        What the detector produces.

    Raises
    ------
    ConfigurationError
        A value is not a finite number above 0, or `theta` is below 1.
    """

    workload: Workload | None = None
    theta: float | None = None
    bandwidth_gbps: float | None = None
    data_rate_gbps: float | None = None

    def __post_init__(self) -> None:
        if self.theta is not None:
            _check_theta(self.theta)
        for name in ("bandwidth_gbps", "data_rate_gbps"):
            if (value := getattr(self, name)) is not None:
                _check_positive(name, value)

    def assess(self, rate_gbps: float) -> Assessment:
        """Return what it means that the session gives `rate_gbps` from producer to consumer.

        Raises
        ------
        ConfigurationError
            `rate_gbps` is not a finite number above 0.
        """
        _check_positive("rate_gbps", rate_gbps)
        work, theta = self.workload, self.theta
        streaming = None if work is None else break_even_gbps(work)
        files = None if work is None or theta is None else break_even_gbps(work, theta)
        return Assessment(
            alpha=self._share(rate_gbps),
            keep_up_factor=None if self.data_rate_gbps is None else rate_gbps / self.data_rate_gbps,
            local_s=None if work is None else local_time_s(work),
            streaming_s=None if work is None else remote_time_s(work, rate_gbps),
            files_s=None if work is None or theta is None else remote_time_s(work, rate_gbps, theta),
            break_even_gbps=streaming,
            break_even_alpha=self._share(streaming),
            files_break_even_gbps=files,
            files_break_even_alpha=self._share(files),
        )

    def _share(self, rate_gbps: float | None) -> float | None:
        if rate_gbps is None or self.bandwidth_gbps is None:
            return None
        return alpha(rate_gbps, self.bandwidth_gbps)


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ConfigurationError(f"{name} is {value}; it has to be a number above 0")


def _check_theta(theta: float) -> None:
    if not 1 <= theta < math.inf:
        raise ConfigurationError(
            f"theta is {theta}; (T_IO + T_transfer) / T_transfer is 1 (no files) or more, never below"
        )
