"""The audit: every decision in order, rotated, closed to others, without secrets; and a full disk."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scistream.client.aio import Facility, reserve_side
from scistream.config import AuditSettings, OnFailure
from scistream.control.audit import Audit, Entry
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.core.session import Encryption
from scistream.core.table import Limits
from scistream.errors import (
    AuthenticationError,
    ConfigurationError,
    PermissionDenied,
    ResourceExhausted,
    SessionNotFound,
)
from support.control_servers import Start

APP = Endpoint("127.0.0.1", 9)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def entry(why: str = "because") -> Entry:
    return Entry(what="req", allowed=True, why=why)


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Let no file of this process grow beyond the size that `path` has; a write of more is short or fails."""
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_files_are_rotated_by_size_and_no_line_is_lost_or_out_of_order(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(AuditSettings(path=path, max_bytes=1000, keep=3))
    for number in range(30):
        audit.write(entry(str(number)))
    audit.close()
    files = [*(path.with_name(f"audit.jsonl.{number}") for number in (3, 2, 1)), path]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(one.stat().st_size <= 1000 for one in files)
    assert all(stat.S_IMODE(one.stat().st_mode) == 0o600 for one in files)
    kept = [line for one in files for line in lines_of(one)]
    assert [line["n"] for line in kept] == list(range(kept[0]["n"], 31))
    assert [line["why"] for line in kept][-1] == "29"


def test_with_none_to_keep_the_old_file_goes(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(AuditSettings(path=path, max_bytes=300, keep=0))
    for _ in range(10):
        audit.write(entry())
    audit.close()
    assert list(tmp_path.iterdir()) == [path]


def test_after_a_rename_and_reopen_the_next_line_is_in_a_new_file(tmp_path: Path) -> None:
    path, old = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl-2026"
    audit = Audit(AuditSettings(path=path))
    audit.write(entry("one"))
    path.rename(old)
    audit.write(entry("two"))
    audit.reopen()
    audit.write(entry("three"))
    audit.close()
    assert [line["why"] for line in lines_of(old)] == ["one", "two"]
    assert [line["why"] for line in lines_of(path)] == ["three"]


def test_a_file_that_others_could_read_is_closed_to_them_and_written_on(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text('{"n": 0}\n')
    path.chmod(0o644)
    audit = Audit(AuditSettings(path=path))
    audit.write(entry())
    audit.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [line["n"] for line in lines_of(path)] == [0, 1]


@pytest.mark.parametrize("kind", ["a link", "a directory", "a pipe"])
def test_what_is_no_file_is_refused_at_the_start(tmp_path: Path, kind: str) -> None:
    import os

    path = tmp_path / "audit.jsonl"
    if kind == "a link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "a directory":
        path.mkdir()
    else:
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        Audit(AuditSettings(path=path))
    if kind == "a pipe":
        os.close(reader)


@pytest.mark.parametrize("on_failure", OnFailure)
def test_a_full_disk_leaves_whole_lines_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, on_failure: OnFailure
) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(AuditSettings(path=path, on_failure=on_failure))
    audit.write(entry("before"))
    with full_disk(path), caplog.at_level(logging.ERROR):
        for _ in range(3):
            if on_failure is OnFailure.REFUSE:
                with pytest.raises(ResourceExhausted, match="decides nothing"):
                    audit.write(entry("lost"))
            else:
                audit.write(entry("lost"))
    assert caplog.text.count("cannot be written") == 1
    audit.write(entry("after"))
    audit.close()
    assert [line["why"] for line in lines_of(path)] == ["before", "after"]
    numbers = [line["n"] for line in lines_of(path)]
    assert numbers == [1, 5]  # the gap can be seen


def test_a_line_is_one_line_whatever_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(AuditSettings(path=path))
    audit.write(Entry(what="req", allowed=False, why="x\ny" * 10_000, session="\n\u2028{}" * 1000))
    audit.close()
    (line,) = path.read_bytes().splitlines()
    assert len(line) < 6000
    json.loads(line)


# --- a control server --------------------------------------------------------------------------------------


async def test_every_decision_of_a_control_server_is_there_in_order(
    start: Start, echo: Endpoint, tmp_path: Path
) -> None:
    path, policy = tmp_path / "audit.jsonl", tmp_path / "policy.toml"
    policy.write_text('[[rules]]\nname = "lab"\nidentities = ["alice"]\ntargets = ["127.0.0.0/8:*"]\n')
    running = await start(
        audit=AuditSettings(path=path),
        policy=policy,
        encryption=Encryption.OPTIONAL,
        limits=Limits(early_hello_timeout_s=0.05),
    )
    async with running.facility().connect() as alice, running.facility("bob").connect() as bob:
        credentials: asyncio.Queue[str] = asyncio.Queue()
        waiting = asyncio.create_task(
            alice.request("uid", Role.PRODUCER, on_credential=credentials.put_nowait)
        )
        credential = await credentials.get()
        async with Facility(
            endpoint=running.server.address, server_certificate_pem=running.certificate_pem, token=credential
        ).connect() as app:
            await app.hello("uid", Role.PRODUCER, [echo])
        await waiting
        await alice.update("uid", Role.PRODUCER)
        with pytest.raises(SessionNotFound):
            await bob.status("uid")
        with pytest.raises(PermissionDenied):
            await bob.request("mine", Role.PRODUCER)
        await alice.release("uid")
    stranger = Facility(
        endpoint=running.server.address, server_certificate_pem=running.certificate_pem, token="wrong"
    )
    async with stranger.connect() as client:
        with pytest.raises(AuthenticationError):
            await client.status()
    await running.server.stop()
    found = lines_of(path)
    assert [line["n"] for line in found] == list(range(1, len(found) + 1))
    assert [line["time"] for line in found] == sorted(line["time"] for line in found)
    seen = [
        (line["what"], line["who"], line["authenticator"], line["session"], line["owner"], line["allowed"])
        for line in found
    ]
    assert seen == [
        ("req", "alice", "shared-key", "uid", "alice", True),
        ("hello", "alice", "application", "uid", "alice", True),
        ("update", "alice", "shared-key", "uid", "alice", True),
        ("status", "bob", "shared-key", "uid", "bob", True),
        ("status", "bob", "shared-key", "uid", "bob", False),
        ("req", "bob", "shared-key", "mine", "bob", False),
        ("release", "alice", "shared-key", "uid", "alice", True),
        ("end", None, None, "uid", "alice", True),
        ("status", None, None, None, None, False),
    ]
    assert found[0]["why"] == "rule 'lab'"
    assert found[5]["why"].startswith("PERMISSION_DENIED: session mine: this gateway's policy has no rule")
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") for line in found if line["what"] != "end")
    secrets = [credential, *running.tokens.values(), "wrong"]
    assert not any(secret in path.read_text() for secret in secrets)


@pytest.mark.parametrize("on_failure", OnFailure)
async def test_with_a_full_disk_calls_are_refused_or_served_as_the_operator_says(
    start: Start, tmp_path: Path, on_failure: OnFailure
) -> None:
    path = tmp_path / "audit.jsonl"
    running = await start(audit=AuditSettings(path=path, on_failure=on_failure))
    async with running.facility().connect() as alice:
        await alice.status()
        with full_disk(path):
            if on_failure is OnFailure.REFUSE:
                with pytest.raises(ResourceExhausted, match="audit cannot be written"):
                    await reserve_side(alice, "uid", Role.PRODUCER, addresses=[APP])
                with pytest.raises(ResourceExhausted, match="audit cannot be written"):
                    await alice.status()
            else:
                await reserve_side(alice, "uid", Role.PRODUCER, addresses=[APP])
        expected = [] if on_failure is OnFailure.REFUSE else ["uid"]
        assert [one.uid for one in await alice.status()] == expected
