"""Every kind of data server; of the native one every TLS engine, the kernel's where there is one.

`path` and `tls_path` lead through all kinds in turn. `native_path` and `native_tls_path` lead through the
native one only, for what the programs of others do not do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from scistream.dataserver import DataServerBackend, create_backend
from scistream.dataserver.native.tls import ENGINES
from scistream.dataserver.native.tls_kernel import why_no_kernel_tls
from support.data_servers import PROGRAMS_MOSTLY, options_of
from support.relays import LoopThread, Path

_NATIVE = [
    pytest.param(("native", {"workers": 2, "tls_engine": engine}), id=f"native-{engine}")
    for engine in ENGINES
]
_PROGRAMS = [pytest.param((*one.values, {}), id=one.values[0], marks=one.marks) for one in PROGRAMS_MOSTLY]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not there: plain ones of stunnel, reverse ones of programs, TLS by this kernel."""
    kinds = "|".join(one.id for one in _PROGRAMS)
    absent = [r"\[stunnel(container)?-plain", rf"\[({kinds})-reverse"]
    if why_no_kernel_tls():
        absent.append(r"\[native-kernel")
    none = re.compile("|".join(absent))
    left_out = [item for item in items if none.search(item.name)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="module")
def thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


def _opened(request: pytest.FixtureRequest, thread: LoopThread) -> Iterator[DataServerBackend]:
    name, options = request.param
    more = options_of(name, request)

    async def opened() -> DataServerBackend:
        backend = create_backend(name, {**options, **more})
        await backend.open()
        return backend

    backend = thread.run(opened())
    yield backend
    thread.run(backend.close())


@pytest.fixture(scope="module", params=[*_NATIVE, *_PROGRAMS])
def shared_backend(request: pytest.FixtureRequest, thread: LoopThread) -> Iterator[DataServerBackend]:
    """An open backend, used by all tests of a module as by all sessions of a gateway."""
    yield from _opened(request, thread)


@pytest.fixture(scope="module", params=_NATIVE)
def native_backend(request: pytest.FixtureRequest, thread: LoopThread) -> Iterator[DataServerBackend]:
    """The same, of the native data server."""
    yield from _opened(request, thread)


def _path(
    thread: LoopThread, backend: DataServerBackend, *, encrypted: bool, reverse: bool = False
) -> Iterator[Path]:
    kind = type(backend).__name__
    path = Path(
        thread,
        backend,
        encrypted,
        resets=kind == "NativeBackend",
        reads_to_the_end=not kind.startswith(("Haproxy", "Stunnel")),
        reverse=reverse,
    )
    yield path
    path.close()


@pytest.fixture(params=["plain", "tls", "reverse-plain", "reverse-tls"])
def path(
    request: pytest.FixtureRequest, shared_backend: DataServerBackend, thread: LoopThread
) -> Iterator[Path]:
    encrypted, reverse = request.param.endswith("tls"), request.param.startswith("reverse")
    yield from _path(thread, shared_backend, encrypted=encrypted, reverse=reverse)


@pytest.fixture
def tls_path(shared_backend: DataServerBackend, thread: LoopThread) -> Iterator[Path]:
    yield from _path(thread, shared_backend, encrypted=True)


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def native_path(
    request: pytest.FixtureRequest, native_backend: DataServerBackend, thread: LoopThread
) -> Iterator[Path]:
    yield from _path(thread, native_backend, encrypted=request.param)


@pytest.fixture
def native_tls_path(native_backend: DataServerBackend, thread: LoopThread) -> Iterator[Path]:
    yield from _path(thread, native_backend, encrypted=True)
