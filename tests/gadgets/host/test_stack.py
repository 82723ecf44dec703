"""How many of the project's functions lie between the socket and whoever takes a finished frame."""

import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import gadgets
from gadgets.host.session import CLIENT
from gadgets.mrd.items import Frame, Item
from gadgets.mrd.messages import Close, ConfigFile, Header, Text, read_message, write_message
from gadgets.mrd.sockets import SocketReader
from tests.gadgets.helpers.sessions import served, services
from tests.gadgets.helpers.synthetic import Fixed, scanned
from tests.gadgets.steps.test_predict_mask import NET

OURS = Path(gadgets.__file__).parent
MOST = 12
# A line of 8 coils x 128 samples does not fit what the reader takes in ahead, so that its samples
# are read where a line's samples are read.
SCAN = scanned(n_x=64, n_ky=64, n_coils=8)


def stack(frame: FrameType | None) -> list[str]:
    """Name the project's functions that are on the stack, the innermost first."""
    found = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(OURS):
            found.append(f"{path.relative_to(OURS)} {frame.f_code.co_qualname}")
        frame = frame.f_back
    return found


class Watched(socket.socket):
    """A socket that notes who reads from it."""

    deepest: list[str]

    def recvmsg_into(self, *arguments: Any) -> Any:
        self.deepest = max(self.deepest, stack(sys._getframe(1)), key=len)
        return super().recvmsg_into(*arguments)


class Worker:
    """In place of the worker: takes frames and notes who brings them."""

    counts: dict[str, int] = {}  # noqa: RUF012  nothing is ever written there

    def __init__(self) -> None:
        self.taken: list[list[str]] = []

    def put(self, item: Item) -> None:
        if isinstance(item, Frame):
            self.taken.append(stack(sys._getframe(1)))

    def finish(self) -> None:
        """Nothing is on its way."""

    def abandon(self) -> None:
        """Nothing is on its way."""


def test_a_readout_passes_few_functions_between_the_socket_and_its_frame() -> None:
    worker = Worker()
    shared = services(models=Fixed(mnet_select=NET), open_worker=lambda *_: worker)
    near, far = socket.socketpair()
    watched = Watched(fileno=far.detach())
    watched.deepest = []
    with near, served(watched, shared, CLIENT):
        near.sendall(write_message(ConfigFile("adaptive_modl_retrospective.xml")))
        near.sendall(write_message(Header(SCAN.header)))
        for line in SCAN.lines():
            near.sendall(write_message(line))
        near.sendall(write_message(Close()))
        read = SocketReader(near)
        while isinstance(message := read_message(read), Text) and "ERROR" not in message.text:
            """It is told that no image was made."""
    assert isinstance(message, Close), message.text if isinstance(message, Text) else message
    (takes,) = worker.taken
    loop = takes[1]  # `put` is called by the one that hands on, and that by the loop
    between = watched.deepest[: watched.deepest.index(loop) + 1]
    print(f"{len(watched.deepest)} in all:", *watched.deepest, sep="\n  ")
    assert between[0].startswith("mrd/sockets.py")
    assert any("AccumulateFrame" in name for name in between)
    # from the socket to the loop, and with what is above the loop
    assert len(between) <= MOST - 1
    assert len(watched.deepest) <= MOST
