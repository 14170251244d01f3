"""The native data server: a small tree of processes that relays TCP and TLS for every session of a gateway.

::

    backend, data_server, tree     the control server's side (asyncio)     -- messages -->
    supervisor, service, children  the tree's parent                       -- messages -->
    worker                         one per core: loop, session, establish, plain | tls_relay, relay

`NativeBackend` is the entry point ``native`` of the group ``scistream.dataservers``.
"""

from scistream.dataserver.native.backend import NativeBackend

__all__ = ["NativeBackend"]
