"""Control servers and an application to test with."""

from support.control_servers import echo, start, tls_files

__all__ = ["echo", "start", "tls_files"]
