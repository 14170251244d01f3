"""The processes of the native data server."""

import sys

from scistream.dataserver.native.work import NativeWork
from scistream.dataserver.tree.main import main

if __name__ == "__main__":
    sys.exit(main("native", NativeWork))
