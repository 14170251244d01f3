"""Data servers that run another program for each session: haproxy, nginx, stunnel.

::

    backend      the settings, as control servers give them
    work         what the tree of processes has in common (`scistream.dataserver.tree`): one worker
    worker       answers the supervisor's requests: asyncio, nothing that blocks
    session      one session: its plan, its folder, its processes, what they have carried
    process      one process of a program: its descriptors, its output, its end
    program      what programs differ in: `Program` and `Instance`, which haproxy, nginx and stunnel implement

The listening sockets are inherited and never bound anew, so that no port is ever lost between two processes.
"""

from scistream.dataserver.programs.backend import ProgramBackend
from scistream.dataserver.programs.work import ProgramWork

__all__ = ["ProgramBackend", "ProgramWork"]
