"""A tree of processes per gateway that forwards sessions, outlives the control server and is found again.

::

    backend, data_server, processes    the control server's side (asyncio)   -- messages -->
    supervisor, service, children      the tree's parent                     -- messages -->
    work                               what its workers do, which is what kinds of data servers differ in

`scistream.dataserver.native` has workers that relay themselves; those of `scistream.dataserver.programs` run
another program for each session.
"""
