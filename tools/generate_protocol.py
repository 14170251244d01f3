"""Generate the protobuf and gRPC modules of `scistream.wire` from scistream.proto.

Run from anywhere, with grpcio-tools of the version in pyproject.toml: ``python tools/generate_protocol.py``.
The generated files are committed, so that an installation needs no generator. protoc is given the path
within ``src``: that makes the generated imports ``from scistream.wire import …`` by themselves.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

SOURCE = Path(__file__).resolve().parents[1] / "src"
PROTOCOL = SOURCE / "scistream" / "wire" / "scistream.proto"


def main() -> int:
    """Run the generator and return its exit status."""
    return int(
        protoc.main(
            [
                "protoc",
                f"--proto_path={SOURCE}",
                f"--proto_path={files('grpc_tools') / '_proto'}",
                f"--python_out={SOURCE}",
                f"--pyi_out={SOURCE}",
                f"--grpc_python_out={SOURCE}",
                str(PROTOCOL),
            ]
        )
    )


if __name__ == "__main__":
    sys.exit(main())
