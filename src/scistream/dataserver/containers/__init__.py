"""Programs in containers: the same processes as those of `scistream.dataserver.programs`, in another place.

::

    backend         the settings, as control servers give them
    place           what `programs` asks a place for: a program's version, its files, a process of it
    process         one process of a program, in a container of its own
    removal         containers that have ended, on their way out of the engine
    engine          the Docker Engine: the image, containers made and removed
    interpreter     this Python, for the first process of any image
    first_process   that process: gets the program's sockets, runs it, ends with it or with the gateway

A container is made like any, but what makes a data server of it never passes the engine: the listening
sockets, the output and the end of the program go over a Unix socket to `first_process`.
"""

from scistream.dataserver.containers.backend import ContainerBackend

__all__ = ["ContainerBackend"]
