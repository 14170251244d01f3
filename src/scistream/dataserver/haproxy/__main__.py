"""The processes of the haproxy data server."""

import sys

from scistream.dataserver.haproxy.program import Haproxy
from scistream.dataserver.programs.place import ThisMachine
from scistream.dataserver.programs.work import ProgramWork
from scistream.dataserver.tree.main import main

if __name__ == "__main__":
    sys.exit(
        main("haproxy", lambda settings: ProgramWork(Haproxy(settings, ThisMachine(settings["binary"]))))
    )
