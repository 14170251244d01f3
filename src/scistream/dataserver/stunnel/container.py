"""The processes of the stunnel data server that runs in containers."""

import sys

from scistream.dataserver.containers.place import ContainerPlace
from scistream.dataserver.programs.work import ProgramWork
from scistream.dataserver.stunnel.program import Stunnel
from scistream.dataserver.tree.main import main

if __name__ == "__main__":
    sys.exit(
        main(
            "stunnelcontainer",
            lambda settings: ProgramWork(
                Stunnel(settings, ContainerPlace(settings, thread_per_connection=True))
            ),
        )
    )
