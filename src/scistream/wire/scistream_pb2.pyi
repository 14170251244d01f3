from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Request(_message.Message):
    __slots__ = ("uid", "role", "num_conn", "rate", "queue", "idle_timeout", "lifetime", "reverse")
    UID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NUM_CONN_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_FIELD_NUMBER: _ClassVar[int]
    REVERSE_FIELD_NUMBER: _ClassVar[int]
    uid: str
    role: str
    num_conn: int
    rate: int
    queue: bool
    idle_timeout: float
    lifetime: float
    reverse: bool
    def __init__(self, uid: _Optional[str] = ..., role: _Optional[str] = ..., num_conn: _Optional[int] = ..., rate: _Optional[int] = ..., queue: _Optional[bool] = ..., idle_timeout: _Optional[float] = ..., lifetime: _Optional[float] = ..., reverse: _Optional[bool] = ...) -> None: ...

class Response(_message.Message):
    __slots__ = ("listeners", "prod_listeners", "certificate", "data_server", "reverse_listeners", "reverse")
    LISTENERS_FIELD_NUMBER: _ClassVar[int]
    PROD_LISTENERS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    DATA_SERVER_FIELD_NUMBER: _ClassVar[int]
    REVERSE_LISTENERS_FIELD_NUMBER: _ClassVar[int]
    REVERSE_FIELD_NUMBER: _ClassVar[int]
    listeners: _containers.RepeatedScalarFieldContainer[str]
    prod_listeners: _containers.RepeatedScalarFieldContainer[str]
    certificate: bytes
    data_server: str
    reverse_listeners: _containers.RepeatedScalarFieldContainer[str]
    reverse: bool
    def __init__(self, listeners: _Optional[_Iterable[str]] = ..., prod_listeners: _Optional[_Iterable[str]] = ..., certificate: _Optional[bytes] = ..., data_server: _Optional[str] = ..., reverse_listeners: _Optional[_Iterable[str]] = ..., reverse: _Optional[bool] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("uid", "prod_listeners", "role")
    UID_FIELD_NUMBER: _ClassVar[int]
    PROD_LISTENERS_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    uid: str
    prod_listeners: _containers.RepeatedScalarFieldContainer[str]
    role: str
    def __init__(self, uid: _Optional[str] = ..., prod_listeners: _Optional[_Iterable[str]] = ..., role: _Optional[str] = ...) -> None: ...

class AppResponse(_message.Message):
    __slots__ = ("message", "listeners")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    LISTENERS_FIELD_NUMBER: _ClassVar[int]
    message: str
    listeners: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, message: _Optional[str] = ..., listeners: _Optional[_Iterable[str]] = ...) -> None: ...

class UpdateTargets(_message.Message):
    __slots__ = ("uid", "remote_listeners", "role", "peer_certificate", "peer_data_server", "reverse_listeners")
    UID_FIELD_NUMBER: _ClassVar[int]
    REMOTE_LISTENERS_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    PEER_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    PEER_DATA_SERVER_FIELD_NUMBER: _ClassVar[int]
    REVERSE_LISTENERS_FIELD_NUMBER: _ClassVar[int]
    uid: str
    remote_listeners: _containers.RepeatedScalarFieldContainer[str]
    role: str
    peer_certificate: bytes
    peer_data_server: str
    reverse_listeners: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, uid: _Optional[str] = ..., remote_listeners: _Optional[_Iterable[str]] = ..., role: _Optional[str] = ..., peer_certificate: _Optional[bytes] = ..., peer_data_server: _Optional[str] = ..., reverse_listeners: _Optional[_Iterable[str]] = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ("uid",)
    UID_FIELD_NUMBER: _ClassVar[int]
    uid: str
    def __init__(self, uid: _Optional[str] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("uid",)
    UID_FIELD_NUMBER: _ClassVar[int]
    uid: str
    def __init__(self, uid: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("uid",)
    UID_FIELD_NUMBER: _ClassVar[int]
    uid: str
    def __init__(self, uid: _Optional[str] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("sessions",)
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[SessionStatus]
    def __init__(self, sessions: _Optional[_Iterable[_Union[SessionStatus, _Mapping]]] = ...) -> None: ...

class SessionStatus(_message.Message):
    __slots__ = ("uid", "role", "state", "reason", "num_conn", "rate", "listeners", "targets", "principal", "encrypted", "data_server", "seconds", "channels", "restarts", "notice", "idle_timeout", "lifetime", "lifetime_left", "paced", "reverse")
    UID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NUM_CONN_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    LISTENERS_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    ENCRYPTED_FIELD_NUMBER: _ClassVar[int]
    DATA_SERVER_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_LEFT_FIELD_NUMBER: _ClassVar[int]
    PACED_FIELD_NUMBER: _ClassVar[int]
    REVERSE_FIELD_NUMBER: _ClassVar[int]
    uid: str
    role: str
    state: str
    reason: str
    num_conn: int
    rate: float
    listeners: _containers.RepeatedScalarFieldContainer[str]
    targets: _containers.RepeatedScalarFieldContainer[str]
    principal: str
    encrypted: bool
    data_server: str
    seconds: float
    channels: _containers.RepeatedCompositeFieldContainer[ChannelStatistics]
    restarts: int
    notice: str
    idle_timeout: float
    lifetime: float
    lifetime_left: float
    paced: bool
    reverse: bool
    def __init__(self, uid: _Optional[str] = ..., role: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., num_conn: _Optional[int] = ..., rate: _Optional[float] = ..., listeners: _Optional[_Iterable[str]] = ..., targets: _Optional[_Iterable[str]] = ..., principal: _Optional[str] = ..., encrypted: _Optional[bool] = ..., data_server: _Optional[str] = ..., seconds: _Optional[float] = ..., channels: _Optional[_Iterable[_Union[ChannelStatistics, _Mapping]]] = ..., restarts: _Optional[int] = ..., notice: _Optional[str] = ..., idle_timeout: _Optional[float] = ..., lifetime: _Optional[float] = ..., lifetime_left: _Optional[float] = ..., paced: _Optional[bool] = ..., reverse: _Optional[bool] = ...) -> None: ...

class ChannelStatistics(_message.Message):
    __slots__ = ("connections_open", "connections_total", "connections_failed", "bytes_to_target", "bytes_from_target", "connections_ready")
    CONNECTIONS_OPEN_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FAILED_FIELD_NUMBER: _ClassVar[int]
    BYTES_TO_TARGET_FIELD_NUMBER: _ClassVar[int]
    BYTES_FROM_TARGET_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_READY_FIELD_NUMBER: _ClassVar[int]
    connections_open: int
    connections_total: int
    connections_failed: int
    bytes_to_target: int
    bytes_from_target: int
    connections_ready: int
    def __init__(self, connections_open: _Optional[int] = ..., connections_total: _Optional[int] = ..., connections_failed: _Optional[int] = ..., bytes_to_target: _Optional[int] = ..., bytes_from_target: _Optional[int] = ..., connections_ready: _Optional[int] = ...) -> None: ...
