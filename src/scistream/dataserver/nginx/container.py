"""The processes of the nginx data server that runs in containers."""

import sys

from scistream.dataserver.containers.place import ContainerPlace
from scistream.dataserver.nginx.program import Nginx
from scistream.dataserver.programs.work import ProgramWork
from scistream.dataserver.tree.main import main

if __name__ == "__main__":
    # as root it makes workers another user's, even if that is root
    capabilities = "SETGID", "SETUID"
    sys.exit(
        main(
            "nginxcontainer",
            lambda settings: ProgramWork(
                Nginx(settings, ContainerPlace(settings, capabilities=capabilities))
            ),
        )
    )
