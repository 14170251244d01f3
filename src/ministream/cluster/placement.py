"""Puts the reconstruction workers of one run on a cluster: what `ministream.pipeline` calls a placement."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from ministream.cluster import node
from ministream.cluster.dask_cluster import DaskCluster
from ministream.cluster.opening import opened
from ministream.cluster.options import ClusterOptions
from ministream.cluster.placed import PlacedWorker
from ministream.cluster.shared_folder import shared_folder
from ministream.pipeline import Named, Place, Site
from ministream.pipeline.child import Event
from ministream.pipeline.scratch import MARK
from ministream.transport import LinkKey

_READY_S = 60.0
"""How long a worker may take to be ready on a Dask worker that is there."""


class DaskPlacement:
    """See `ministream.pipeline.Placement`."""

    def __init__(
        self,
        cluster: DaskCluster,
        *,
        host: str,
        key: LinkKey | None,
        key_file: Path,
        parts: Path | None,
        mark: str,
        start_timeout_s: float,
    ) -> None:
        self.host = host
        self.key_file = key_file
        self.ready_timeout_s = start_timeout_s + _READY_S
        self._cluster = cluster
        self._key = key
        self._parts = parts
        self._mark = mark
        self._workers: list[PlacedWorker] = []

    async def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        on_event: Callable[[Named, Event], None],
        on_warning: Callable[[Named | None, str], None],
    ) -> PlacedWorker:
        """Have a worker started by `command`, of which the part behind ``--json`` counts."""
        arguments = tuple(command[command.index("--json") + 1 :])

        def order(key: str) -> node.Order:
            return node.Order(
                key=key,
                topic=self._cluster.topic,
                name=name,
                arguments=arguments,
                # one whose network has gone may still write: no two have the same file
                output=None if self._parts is None else str(self._parts / f"{key}.h5"),
                link_key=self._key,
                environment={MARK: self._mark},
            )

        worker = PlacedWorker(name, self._cluster, order, on_event, on_warning)
        self._workers.append(worker)
        return worker

    async def stop(self) -> None:
        """Want no worker any more."""
        for worker in self._workers:
            await worker.stop()


def placing(options: ClusterOptions) -> Place:
    """Return what opens a placement for one run of the pipeline, with a link key of its own."""

    @contextlib.asynccontextmanager
    async def place(site: Site) -> AsyncIterator[DaskPlacement]:
        key, key_file = LinkKey.new(), site.scratch / "link.key"
        key.write(key_file)
        async with placement(options, site, key=key, key_file=key_file, has_output=True) as made:
            yield made

    return place


@contextlib.asynccontextmanager
async def placement(
    options: ClusterOptions, site: Site, *, key: LinkKey | None, key_file: Path, has_output: bool
) -> AsyncIterator[DaskPlacement]:
    """Yield a placement on the cluster of `options`; end what it has placed, and what was started for it.

    Raises
    ------
    InputError
        Dask is not installed, or cannot take the options.
    ConnectionFailed
        The scheduler cannot be reached, or started.
    OutputError
        The shared folder cannot be written to.
    """
    async with shared_folder(site.shared) as folder, contextlib.AsyncExitStack() as stack:
        client, jobs, host = await stack.enter_async_context(
            opened(options, folder=folder, scratch=site.scratch, mark=(MARK, site.mark))
        )
        cluster = await stack.enter_async_context(
            DaskCluster(
                client,
                jobs,
                topic=f"ministream-{uuid.uuid4().hex}",
                wanted=options.workers,
                start_timeout_s=options.start_timeout_s,
            )
        )
        made = DaskPlacement(
            cluster,
            host=host,
            key=key,
            key_file=key_file,
            parts=folder if has_output else None,
            mark=site.mark,
            start_timeout_s=options.start_timeout_s,
        )
        stack.push_async_callback(made.stop)
        yield made
