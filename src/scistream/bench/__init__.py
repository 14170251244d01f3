"""Measure gateways: ours beside its peers on this host, or the path through a session beside the direct one.

>>> from scistream.bench import QUICK, Cores, RelayPlan, measure_relays
>>> report = measure_relays(RelayPlan(effort=QUICK, cores=Cores.choose()))  # doctest: +SKIP
>>> report["ratios"]["tls_throughput_vs_haproxy"]  # doctest: +SKIP
1.9
"""

from scistream.bench.chain import DIRECT
from scistream.bench.figures import FIGURES, Figure, Figures, Table
from scistream.bench.machine import Cores, use_cubic
from scistream.bench.path import MAX_CONNECTIONS, PATH, THROUGH, PathPlan, measure_path
from scistream.bench.peers import OURS, contestants
from scistream.bench.relays import RELAYS, RelayPlan, Step, measure_relays
from scistream.bench.report import (
    cell,
    check_section,
    columns,
    compared,
    goal_rows,
    machine_line,
    replace_section,
    table_lines,
    to_markdown,
)
from scistream.bench.scenarios import FULL, QUICK, Effort, Part

__all__ = [
    "DIRECT",
    "FIGURES",
    "FULL",
    "MAX_CONNECTIONS",
    "OURS",
    "PATH",
    "QUICK",
    "RELAYS",
    "THROUGH",
    "Cores",
    "Effort",
    "Figure",
    "Figures",
    "Part",
    "PathPlan",
    "RelayPlan",
    "Step",
    "Table",
    "cell",
    "check_section",
    "columns",
    "compared",
    "contestants",
    "goal_rows",
    "machine_line",
    "measure_path",
    "measure_relays",
    "replace_section",
    "table_lines",
    "to_markdown",
    "use_cubic",
]
