"""The native data server: relays TCP and TLS for all sessions of a gateway, one worker process per core.

::

    backend, work    its settings, and what its tree of processes has in common (`scistream.dataserver.tree`)
    worker           one per core: loop, session, establish, plain | tls_relay, relay

`NativeBackend` is the entry point ``native`` of the group ``scistream.dataservers``.
"""

from scistream.dataserver.native.backend import NativeBackend

__all__ = ["NativeBackend"]
