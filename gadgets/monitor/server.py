"""The web server of the monitor: one page, its events, images, and what probes ask. GET alone."""

import asyncio
import importlib.resources
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from .board import Board

TICK_S = 0.1  # between two looks at the board: faster than an eye follows lines
BEAT_S = 1.0  # between two signs of life
OURS = ["127.0.0.1", "localhost"]  # a page of another name that leads here must read nothing
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
Ask = Callable[[str], Awaitable[bytes | None]]  # None: the front has not answered in time
SILENT = "the host does not answer"


def application(board: Board, ask: Ask, stopping: asyncio.Event) -> Starlette:
    """Return the application; its streams of events end when `stopping` is set."""
    host = _Host(ask)

    async def probe(request: Request) -> Response:
        why = await ask(request.url.path.strip("/"))
        text = SILENT if why is None else why.decode()
        status = HTTPStatus.SERVICE_UNAVAILABLE if text else HTTPStatus.OK
        return PlainTextResponse(f"{text or 'ok'}\n", status, HEADERS)

    async def metrics(request: Request) -> Response:
        text = await ask("metrics")
        if text is None:
            return PlainTextResponse(f"{SILENT}\n", HTTPStatus.SERVICE_UNAVAILABLE, HEADERS)
        return Response(text, headers=HEADERS | {"Content-Type": CONTENT_TYPE_LATEST})

    async def image(request: Request) -> Response:
        found = board.image(request.path_params["scan"], request.path_params["slice"])
        if found is None:
            return PlainTextResponse("no such image\n", HTTPStatus.NOT_FOUND, HEADERS)
        return Response(found, media_type="image/png", headers=HEADERS)

    async def events(request: Request) -> Response:
        stream = _events(board, host, stopping)
        return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)

    routes = [
        Route("/healthz", probe, methods=["GET"]),
        Route("/readyz", probe, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/events", events, methods=["GET"]),
        Route("/image/{scan}/{slice:int}", image, methods=["GET"]),
        *(_file(path, name) for path, name in _PAGE.items()),
    ]
    return Starlette(
        routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=OURS)]
    )


_PAGE = {
    "/": "index.html",
    "/page.css": "page.css",
    "/page.js": "page.js",
    "/plane.js": "plane.js",
}


def _file(path: str, name: str) -> Route:
    content = importlib.resources.files("gadgets.monitor").joinpath("page", name).read_bytes()
    kind = KINDS[name.rpartition(".")[2]]

    async def send(request: Request) -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return Route(path, send, methods=["GET"])


async def _events(board: Board, host: "_Host", stopping: asyncio.Event) -> AsyncIterator[str]:
    """Give what has changed, at first everything, and a sign of life each second."""
    since, beat = -1, 0.0
    while not stopping.is_set():
        now = time.monotonic()
        if board.version > since or now - beat > BEAT_S:
            message: dict[str, Any] = {"all": since < 0, "scans": board.changes(since)}
            since = board.version
            if now - beat > BEAT_S:
                beat = now
                message["host"] = await host.state()
            yield f"data: {json.dumps(message, allow_nan=False)}\n\n"
        await asyncio.sleep(TICK_S)


class _Host:
    """How the host is, asked once a second however many browsers look on."""

    def __init__(self, ask: Ask) -> None:
        self._ask, self._at = ask, -BEAT_S
        self._known: dict[str, Any] = {}

    async def state(self) -> dict[str, Any]:
        """Return `trouble`, `unready`, `queued`, `most` and `dropped`."""
        if time.monotonic() - self._at >= BEAT_S / 2:
            self._at = time.monotonic()
            answer = await self._ask("state")
            self._known = {"trouble": SILENT} if answer is None else json.loads(answer)
        return self._known
