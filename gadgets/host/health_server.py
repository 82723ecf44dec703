"""A host's health over HTTP, on loopback: /healthz, /readyz and /metrics."""

import http.server
import threading
from collections.abc import Callable
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST

PLAIN = "text/plain; charset=utf-8"


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

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="status", daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
