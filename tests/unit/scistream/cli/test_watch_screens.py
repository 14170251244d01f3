"""The screen of ``s2uc watch``: always the same columns, on 80 of them."""

from __future__ import annotations

from scistream.cli.s2uc.watch_screens import Look, look, table_lines
from scistream.core.events import Role
from scistream.core.session import State
from scistream.core.status import ChannelStatistics, SessionStatus

SERVER = "gateway-12.beamline.facility.example:50000"


def status(*channels: ChannelStatistics) -> SessionStatus:
    return SessionStatus(
        uid="5218deff-cb0c-4f09-8118-09cc6e178884",
        role=Role.CONSUMER,
        state=State.CONNECTED,
        num_conn=len(channels),
        rate_mbps=0,
        channels=channels,
    )


def lines_of(*channels: ChannelStatistics, rate: float) -> list[str]:
    one = Look(server=SERVER, status=status(*channels), rates=[(rate, rate / 7) for _ in channels])
    return table_lines("5218deff-cb0c-4f09-8118-09cc6e178884", [one], ["other.example:5000"])


def test_it_fits_80_columns_whole_and_its_columns_stay_where_they_are() -> None:
    few = lines_of(ChannelStatistics(), rate=0)
    many = lines_of(
        ChannelStatistics(
            connections_open=10_000,
            connections_total=1_000_000,
            connections_failed=99_999,
            bytes_to_target=999_949_000_000,
            bytes_from_target=999_949_000,
        ),
        rate=999_949_000,
    )
    for lines in (few, many):
        assert max(map(len, lines)) <= 80
        assert any(f"CONS connected at {SERVER}" == line for line in lines)
        assert any("other.example:5000" in line for line in lines)
    assert few[1] == many[1]
    assert few[1].split("  ")[-1].strip() == "←"
    assert len(few[1]) == len(few[3]) == len(many[3])
    assert many[3].split()[:4] == ["0", "10000", "1000000", "99999"]


def test_a_channel_whose_target_refuses_shows_it() -> None:
    row = lines_of(ChannelStatistics(connections_total=7, connections_failed=7), rate=0)[3]
    assert row.split()[:4] == ["0", "0", "7", "7"]


def test_rates_are_what_has_flowed_since_the_look_before() -> None:
    before = status(ChannelStatistics(connections_total=2, bytes_to_target=100))
    now = status(ChannelStatistics(connections_total=2, bytes_to_target=300, bytes_from_target=50))
    assert look(SERVER, now, (10.0, before), 12.0).rates == [(100.0, 25.0)]
    assert look(SERVER, now, None, 12.0).rates == [(0.0, 0.0)]
    restarted = status(ChannelStatistics(connections_total=1, bytes_to_target=40))
    assert look(SERVER, restarted, (10.0, before), 12.0).rates == [(20.0, 0.0)]
