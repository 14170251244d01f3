"""Puts a distributor's store on the disk, again and again, beside the stream."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Self

from ministream.errors import OutputError
from ministream.stages.store import ScanStore

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0
"""What has come in the last so many seconds, a power cut may cost."""


class Syncing:
    """A thread that does it while the context is open, and once more in the end.

    A disk that does not take it is told once; the stream goes on, as it does not need it.

    Parameters
    ----------
    store : ScanStore
    interval_s : float
    """

    def __init__(self, store: ScanStore, *, interval_s: float = INTERVAL_S) -> None:
        self._store = store
        self._interval_s = interval_s
        self._over = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="sync", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        synced: tuple[int, int, bool] | None = None
        over = False
        while not over:
            over = self._over.wait(self._interval_s)
            state = (self._store.count, self._store.next_sequence, self._store.complete)
            if state == synced or self._store.removed:
                continue
            try:
                self._store.sync()
                synced = state
                self._failed = False
            except OutputError as error:
                if not self._failed:
                    logger.warning("after a power cut the scan could not go on: %s", error)
                self._failed = True
