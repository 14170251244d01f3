"""Every installed data server, and for the native one both TLS engines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from scistream.dataserver import DataServerBackend, create_backend, installed
from support.relays import LoopThread, Path

_VARIANTS: dict[str, list[dict[str, Any]]] = {
    "native": [{"workers": 2, "tls_engine": "openssl"}, {"workers": 2, "tls_engine": "stdlib"}],
}
_BACKENDS = [
    pytest.param((name, options), id="-".join([name, *(str(value) for value in options.values())]))
    for name in installed()
    for options in _VARIANTS.get(name, [{}])
]


@pytest.fixture(scope="module")
def thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.fixture(scope="module", params=_BACKENDS)
def shared_backend(request: pytest.FixtureRequest, thread: LoopThread) -> Iterator[DataServerBackend]:
    """An open backend, used by all tests of a module as by all sessions of a gateway."""
    name, options = request.param

    async def opened() -> DataServerBackend:
        backend = create_backend(name, options)
        await backend.open()
        return backend

    backend = thread.run(opened())
    yield backend
    thread.run(backend.close())


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def path(
    request: pytest.FixtureRequest, shared_backend: DataServerBackend, thread: LoopThread
) -> Iterator[Path]:
    path = Path(thread, shared_backend, encrypted=request.param)
    yield path
    path.close()


@pytest.fixture
def tls_path(shared_backend: DataServerBackend, thread: LoopThread) -> Iterator[Path]:
    path = Path(thread, shared_backend, encrypted=True)
    yield path
    path.close()
