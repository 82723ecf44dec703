"""A host's health over HTTP, on loopback: /healthz, /readyz and /metrics."""

import http.server
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST

AGAIN_S = 0.05
PLAIN = "text/plain; charset=utf-8"


class _Server(http.server.ThreadingHTTPServer):
    """Keeps a descriptor in reserve: a host that has none left shall still say so."""

    def __init__(self, address: tuple[str, int], handler: Any) -> None:
        self._reserve: int | None = None
        self._lock = threading.Lock()
        super().__init__(address, handler)  # closes itself where the port is taken
        self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take a connection, with the reserve where nothing else is left."""
        try:
            return super().get_request()
        except OSError:
            with self._lock:
                if self._reserve is None:
                    time.sleep(AGAIN_S)  # it would be asked again at once, and for ever
                    raise
                os.close(self._reserve)
                self._reserve = None
            return super().get_request()

    def close_request(self, request: Any) -> None:
        """End a connection, and take its descriptor in reserve where there is none."""
        super().close_request(request)
        with self._lock, suppress(OSError):
            if self._reserve is None:
                self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def server_close(self) -> None:
        """Close everything."""
        super().server_close()
        with self._lock:
            if self._reserve is not None:
                os.close(self._reserve)
                self._reserve = None


class StatusServer:
    """Answers probes on a thread of its own until closed.

    `trouble` says why the host should be restarted, `unready` why it cannot predict masks yet; both
    "" where all is well. Raises OSError where the port is taken.
    """

    def __init__(
        self,
        port: int,
        *,
        trouble: Callable[[], str],
        unready: Callable[[], str],
        metrics: Callable[[], bytes],
    ) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, metrics())
                elif self.path in ("/healthz", "/readyz"):
                    why = trouble() if self.path == "/healthz" else unready()
                    status = HTTPStatus.SERVICE_UNAVAILABLE if why else HTTPStatus.OK
                    self._answer(status, PLAIN, f"{why or 'ok'}\n".encode())
                else:
                    self._answer(HTTPStatus.NOT_FOUND, PLAIN, b"/healthz /readyz /metrics\n")

            def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                """Say nothing: a probe comes every few seconds."""

        self._server = _Server(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="status", daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
