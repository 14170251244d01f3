"""Whose a container is."""

from __future__ import annotations

import os

import psutil

from scistream.dataserver.containers.owner import has_gone, name_of


def test_a_process_that_lives_has_not_gone_and_one_that_has_ended_has() -> None:
    assert not has_gone(name_of(os.getpid()))
    process = psutil.Popen(["cat"], stdin=-1, stdout=-1)
    name = name_of(process.pid)
    assert not has_gone(name)
    process.communicate()
    assert has_gone(name)


def test_a_number_that_is_anothers_now_is_another_process() -> None:
    boot, space, pid, started = name_of(os.getpid()).split(" ")
    assert has_gone(f"{boot} {space} {pid} {int(started) + 1}")


def test_who_was_there_before_the_machine_was_started_has_gone() -> None:
    _, *rest = name_of(os.getpid()).split(" ")
    assert has_gone(" ".join(["another-boot", *rest]))


def test_of_processes_that_are_not_to_be_seen_from_here_nothing_is_said() -> None:
    boot, _, pid, _ = name_of(os.getpid()).split(" ")
    assert not has_gone(f"{boot} pid:[1] {pid} 1")
