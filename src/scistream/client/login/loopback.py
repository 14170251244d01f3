"""Takes the browser back after a login: one page on a port of this machine (RFC 8252, 7.3)."""

from __future__ import annotations

import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

from scistream.errors import DeadlineExceeded, ResourceExhausted

_PATH = "/callback"
# A browser that connects and says nothing keeps no other away for longer.
_REQUEST_TIMEOUT_S = 5.0

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>SciStream</title></head>
<body><h1>{title}</h1><p>{text}</p></body></html>"""


class Loopback:
    """Waits for the browser; a context manager.

    Raises
    ------
    ResourceExhausted
        No port of 127.0.0.1 can be had.
    """

    def __init__(self) -> None:
        self.answer = ""
        self.state = ""
        loopback = self

        class Handler(BaseHTTPRequestHandler):
            timeout = _REQUEST_TIMEOUT_S

            def do_GET(self) -> None:
                loopback.take(self)

            def log_message(self, *_: object) -> None:
                """Log nothing: the line would hold the code."""

        try:
            self._server = HTTPServer(("127.0.0.1", 0), Handler)
        except OSError as error:
            raise ResourceExhausted(
                f"no port of 127.0.0.1 can be had for the browser: {error.strerror}; use --how paste"
            ) from error
        self.redirect_uri = f"http://127.0.0.1:{self._server.server_port}{_PATH}"

    def wait(self, state: str, timeout_s: float) -> str:
        """Return where the browser was sent, once it comes with `state`; others are sent away.

        Raises
        ------
        DeadlineExceeded
            It did not come in time.
        """
        self.state = state
        deadline_s = time.monotonic() + timeout_s
        while not self.answer:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise DeadlineExceeded(
                    f"the browser did not come back within {timeout_s:g} s; log in again, or use --how paste"
                )
            self._server.timeout = left_s
            self._server.handle_request()
        return self.answer

    def take(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        parts = urlsplit(request.path)
        query = parse_qs(parts.query)
        ours = parts.path == _PATH and query.get("state") == [self.state] and bool(self.state)
        if ours:
            self.answer = f"{self.redirect_uri}?{parts.query}"
        denied = "error" in query
        body = (
            _PAGE.format(
                title="Login refused" if denied else "Login done",
                text="You can close this page and go back to the terminal.",
            )
            if ours
            else _PAGE.format(title="Not found", text="This is no answer to the login that waits here.")
        ).encode()
        request.send_response(200 if ours else 404)
        request.send_header("Content-Type", "text/html; charset=utf-8")
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Cache-Control", "no-store")
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(body)

    def __enter__(self) -> Loopback:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the port."""
        self._server.server_close()
