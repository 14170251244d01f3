"""The processes of the nginx data server."""

import sys

from scistream.dataserver.nginx.program import Nginx
from scistream.dataserver.programs.place import ThisMachine
from scistream.dataserver.programs.work import ProgramWork
from scistream.dataserver.tree.main import main

if __name__ == "__main__":
    sys.exit(main("nginx", lambda settings: ProgramWork(Nginx(settings, ThisMachine(settings["binary"])))))
