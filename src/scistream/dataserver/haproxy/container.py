"""The processes of the haproxy data server that runs in containers."""

import sys

from scistream.dataserver.containers.place import ContainerPlace
from scistream.dataserver.haproxy.program import Haproxy
from scistream.dataserver.programs.work import ProgramWork
from scistream.dataserver.tree.main import main

if __name__ == "__main__":
    sys.exit(
        main("haproxycontainer", lambda settings: ProgramWork(Haproxy(settings, ContainerPlace(settings))))
    )
