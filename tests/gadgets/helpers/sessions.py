"""Sessions in this process, without a host: what they share, made up."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from gadgets.host.scan_run import Services
from gadgets.host.session import Kind, serve
from gadgets.mask.in_band import in_band_link
from gadgets.mask.recon_end import Observer, ReconLink
from gadgets.pipeline.build import load
from gadgets.pipeline.models import Models


class NoMasks:
    """In place of the mask channel: nobody is there."""

    def open(self, scan_token: str | None, observe: Observer | None = None) -> ReconLink:
        return in_band_link(None, scan_token, lambda message: None, observe)


def started(*_: object) -> NoReturn:
    raise AssertionError("nothing may start")


def services(**changes: Any) -> Services:
    """Return what a session needs of its host, whose worker must not be asked for."""
    plain: dict[str, Any] = {
        "models": Models(),
        "masks": NoMasks(),
        "open_worker": started,
        "new_record": lambda: None,
        "answer": lambda key: "Unknown query",
        "wait_warm": lambda: None,
        "load": load,
    }
    return Services(**(plain | changes))


@contextmanager
def served(sock: socket.socket, shared: Services, kind: Kind) -> Iterator[list[Exception | None]]:
    """Serve a connection meanwhile; its failure is in the list at the end, None where none was."""
    failures: list[Exception | None] = []
    thread = threading.Thread(target=lambda: failures.append(serve(sock, shared, kind)))
    thread.start()
    yield failures
    thread.join(60)
    assert not thread.is_alive(), "a session ends by itself once its peer has"
