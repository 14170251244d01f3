"""A monitor of an EPICS pvAccess PV whose every image is kept, or counted as lost.

pvAccess itself replaces images that a client does not fetch in time. So they are fetched at once, by p4p's
own threads, and wait here in a buffer of limited size. What is missing by the detector's own numbers was lost
before it came here; what found the buffer full was lost here. Both are counted apart.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from ministream.errors import ConnectionFailed, InputError
from ministream.sources.ntndarray import is_empty
from ministream.sources.unique_id import UniqueIds

logger = logging.getLogger(__name__)

# pvAccess' own queue, on both sides: deep enough for the time until a thread runs
_REQUEST = "record[queueSize=100]field()"


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """An image as it has come.

    Parameters
    ----------
    value : p4p.Value
        The NTNDArray structure.
    missing : int
        How many images are missing between the one before and it.
    present : bool
        It is what the PV showed when it was connected for the first time.
    """

    value: Any
    missing: int
    present: bool


class Monitor:
    """Follows a PV. Close it.

    Parameters
    ----------
    name : str
    buffer_bytes : int
        How much may wait; one image always may.

    Attributes
    ----------
    lost : int
        Images that did not arrive.
    dropped : int
        Images that arrived when the buffer was full.
    ids : UniqueIds
        What else the numbers tell.
    connections : int
        How often the PV has been connected.

    Raises
    ------
    InputError
        p4p is not installed.
    """

    def __init__(self, name: str, *, buffer_bytes: int) -> None:
        self.name = name
        self.lost = 0
        self.dropped = 0
        self.ids = UniqueIds()
        self._limit = buffer_bytes
        self._waiting: deque[Update] = deque()
        self._bytes = 0
        self._carried = 0
        self.connections = 0
        self._connected = False
        self._warned = False
        self._failure: Exception | None = None
        self._changed = threading.Condition()
        self._context = client_context()
        self._subscription = self._context.monitor(name, self._take, request=_REQUEST, notify_disconnect=True)

    @property
    def connected(self) -> bool:
        """Whether the PV is there."""
        return self._connected

    def wait(self, timeout_s: float) -> bool:
        """Wait until an image is there; tell whether one is.

        Raises
        ------
        InputError
            What the PV shows is no NTNDArray.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._failure, timeout_s)
            if self._failure is not None and not self._waiting:
                raise InputError(
                    f"pva:{self.name} shows no NTNDArray ({self._failure}); is it a detector's Pva plugin?"
                ) from self._failure
            return bool(self._waiting)

    def get(self) -> Update:
        """Return the next image; one must be there."""
        with self._changed:
            update = self._waiting.popleft()
            self._bytes -= _size(update.value)
            return update

    def close(self) -> None:
        """Unsubscribe. Idempotent."""
        self._subscription.close()
        self._context.close()

    def _take(self, value: Any) -> None:
        """Take what p4p brings, in a thread of its own."""
        # an exception that leaves this would end the subscription without a word
        try:
            with self._changed:
                self._note(value)
                self._changed.notify_all()
        except Exception as error:
            logger.debug("pva:%s:", self.name, exc_info=True)
            self._failure = error

    def _note(self, value: Any) -> None:
        if isinstance(value, Exception):
            if self._connected:
                logger.warning("pva:%s is gone (%s); waiting for it", self.name, value)
            self._connected = False
            return
        returned, first = not self._connected and self.connections > 0, self.connections == 0
        self.connections += not self._connected
        self._connected = True
        if is_empty(value):
            return
        number = int(value["uniqueId"])
        if first:
            # older than the scan: what follows need not be numbered on from it
            self._waiting.append(Update(value, 0, present=True))
            self._bytes += _size(value)
            return
        if returned and number == self.ids.last:
            # shown again after the connection was lost
            return
        missing = self.ids.missing_before(number)
        if self.ids.repeated == 1 and not self._warned:
            self._warned = True
            logger.warning(
                "pva:%s gives the number %d to more than one image: what it loses cannot be told",
                self.name,
                number,
            )
        self.lost += missing
        self._carried += missing
        if self._bytes and self._bytes + _size(value) > self._limit:
            self.dropped += 1
            self._carried += 1
            return
        self._waiting.append(Update(value, self._carried, present=False))
        self._bytes += _size(value)
        self._carried = 0


def read_number(name: str, timeout_s: float) -> float:
    """Return the number that a PV holds now.

    Raises
    ------
    InputError
        It holds something else, or p4p is not installed.
    ConnectionFailed
        It does not answer.
    """
    value = _read(name, timeout_s)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"the PV {name} holds {str(value)[:60]!r}, not a number") from None


def read_numbers(name: str, timeout_s: float) -> list[float]:
    """Return the numbers in the array that a PV holds now; raises as `read_number` does."""
    value = _read(name, timeout_s)
    try:
        return [float(entry) for entry in value]
    except (TypeError, ValueError):
        raise InputError(f"the PV {name} holds {str(value)[:60]!r}, not an array of numbers") from None


def _read(name: str, timeout_s: float) -> Any:
    # one context for each kind of PV: p4p's unwrappers are not to be mixed
    context = client_context()
    began_s = time.monotonic()
    try:
        return context.get(name, timeout=timeout_s)["value"]
    except TimeoutError as error:
        waited_s = time.monotonic() - began_s
        raise ConnectionFailed(no_answer(name, waited_s)) from error
    except KeyError as error:
        raise InputError(f"the PV {name} has no value") from error
    finally:
        context.close()


def no_answer(name: str, waited_s: float) -> str:
    """Return what to say when a PV does not answer."""
    return (
        f"the PV {name} has not answered for {waited_s:.0f} s; is its name right, is its IOC running, and "
        "does EPICS_PVA_ADDR_LIST lead to it?"
    )


def client_context() -> Any:
    """Return a pvAccess client that gives structures as they are.

    Raises
    ------
    InputError
        p4p is not installed.
    """
    try:
        from p4p.client.thread import Context
    except ImportError as error:
        raise InputError(
            "a detector by EPICS pvAccess needs p4p, which is not installed: pip install 'ministream[epics]'"
        ) from error
    return Context("pva", nt=False)


def _size(value: Any) -> int:
    return int(value["value"].nbytes)
