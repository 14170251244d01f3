"""The processes of the stunnel data server."""

import sys

from scistream.dataserver.programs.place import ThisMachine
from scistream.dataserver.programs.work import ProgramWork
from scistream.dataserver.stunnel.program import Stunnel
from scistream.dataserver.tree.main import main

if __name__ == "__main__":
    sys.exit(
        main("stunnel", lambda settings: ProgramWork(Stunnel(settings, ThisMachine(settings["binary"]))))
    )
