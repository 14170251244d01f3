"""One session of a session table, driven by hand: each call makes one event, and returns its commands."""

from __future__ import annotations

from typing import Any

from scistream.core import commands as c
from scistream.core import events as e
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role, SessionKey, Timer
from scistream.core.reservation import PortPool
from scistream.core.session import State
from scistream.core.table import SessionTable

KEY = SessionKey("alice", "uid-1")
APP = Endpoint("10.0.0.5", 7000)
OTHER = Endpoint("10.0.0.6", 7000)
CERTIFICATE = b"our certificate"
PEER = b"their certificate"

Commands = tuple[c.Command, ...]


class DrivenSession:
    """A session; its calls are numbered as they come."""

    def __init__(
        self, table: SessionTable | None = None, key: SessionKey = KEY, role: Role = Role.PRODUCER
    ) -> None:
        self.table = table or SessionTable(PortPool(range(5100, 5104)))
        self.key = key
        self.role = role
        self.calls = 0
        self.orders: dict[int, c.StartDataServer] = {}

    def call(self) -> int:
        self.calls += 1
        return self.calls

    def request(self, **changes: Any) -> Commands:
        values: dict[str, Any] = {"role": self.role, "num_conn": 2, "rate_mbps": 100} | changes
        return self.table.handle(e.Request(key=self.key, call=self.call(), **values))

    def bound(self, *ports: int) -> Commands:
        session = self.table.get(self.key)
        ports = ports or session.ports
        # as others reach them: never the bound ports
        outside = tuple(Endpoint("gw", port + 10_000) for port in ports)
        own = session.num_conn if session.reverse else len(ports)
        return self.table.handle(
            e.ListenersBound(
                key=self.key,
                listeners=outside[:own],
                reverse_listeners=outside[own:],
                ports=ports,
                certificate_pem=CERTIFICATE,
            )
        )

    def hello(self, *addresses: Endpoint, role: Role | None = None) -> Commands:
        return self.table.handle(
            e.Hello(key=self.key, call=self.call(), role=role or self.role, addresses=addresses)
        )

    def update(
        self, *targets: Endpoint, peer: bytes = PEER, role: Role | None = None, **more: Any
    ) -> Commands:
        update = e.Update(
            key=self.key, call=self.call(), role=role, targets=targets, peer_certificate_pem=peer, **more
        )
        return self.ordered(self.table.handle(update))

    def ready(self, generation: int = 1) -> Commands:
        return self.table.handle(data_server_ready(self.orders[generation]))

    def retarget_failed(self, generation: int, reason: str = "no descriptors left") -> Commands:
        return self.table.handle(e.RetargetFailed(key=self.key, generation=generation, reason=reason))

    def died(self, reason: str = "killed by signal 9") -> Commands:
        return self.ordered(self.table.handle(e.DataServerDied(key=self.key, reason=reason)))

    def ordered(self, commands: Commands) -> Commands:
        """Remember the orders to the data server among `commands`, which are returned."""
        self.orders |= {order.generation: order for order in commands if isinstance(order, c.StartDataServer)}
        return commands

    def renew(self) -> Commands:
        return self.table.handle(e.Renew(key=self.key, call=self.call()))

    def fire(self, timer: Timer) -> Commands:
        return self.table.handle(e.TimerFired(key=self.key, timer=timer))

    def carried(self, total: int) -> Commands:
        return self.table.handle(e.TrafficSeen(key=self.key, total=total))

    def abandon(self, call: int) -> Commands:
        return self.table.handle(e.CallAbandoned(key=self.key, call=call))

    def release(self) -> Commands:
        return self.table.handle(e.Release(key=self.key, call=self.call()))

    def freed(self) -> Commands:
        return self.table.handle(e.SessionFreed(key=self.key))

    def reserve(self, **changes: Any) -> DrivenSession:
        self.request(**changes)
        self.bound()
        return self

    def announce(self, **changes: Any) -> DrivenSession:
        self.reserve(**changes)
        self.hello(APP)
        return self

    def connect(self, **changes: Any) -> DrivenSession:
        self.announce(**changes)
        self.update(APP)
        self.ready()
        return self

    @property
    def state(self) -> State:
        return self.table.get(self.key).state

    @property
    def reason(self) -> str:
        return self.table.get(self.key).reason


def of_kind(commands: Commands, kind: type[c.Command]) -> list[Any]:
    return [command for command in commands if type(command) is kind]


def data_server_ready(order: c.StartDataServer) -> e.DataServerReady:
    """Return the report that `order` has been carried out."""
    return e.DataServerReady(
        key=order.key,
        generation=order.generation,
        targets=order.targets,
        peer_certificate_pem=order.peer_certificate_pem,
        peer_data_server=order.peer_data_server,
        reverse_listeners=order.reverse_listeners,
    )


def answered(commands: Commands) -> list[int]:
    """Return the calls that got an answer, not an error."""
    return [reply.call for reply in of_kind(commands, c.Reply)]
