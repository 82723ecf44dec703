"""The monitor's process: `python -m gadgets.monitor.process EVENTS QUESTIONS LISTENER...`.

The arguments are file descriptors of the front, with which this process ends.
"""

import asyncio
import logging
import os
import socket
import sys
from itertools import count

import uvicorn

from .. import logs
from .board import Board
from .feed import LARGEST, read
from .server import Ask, application

log = logging.getLogger(__name__)
NICENESS = 15  # under the front and the worker: masks and images go first
ANSWER_S = 5.0  # for the front to say how it is
AT_ONCE = 200  # events between two looks at what browsers want


def main(descriptors: list[int]) -> None:
    """Serve until the front closes its end or asks for the end."""
    logs.configure(logging.INFO, plain="monitor: %(levelname)s %(message)s")
    os.nice(NICENESS)
    events, questions, *listeners = (socket.socket(fileno=number) for number in descriptors)
    for sock in (events, questions):
        sock.setblocking(False)
    asyncio.run(_serve(events, questions, listeners))


async def _serve(
    events: socket.socket, questions: socket.socket, listeners: list[socket.socket]
) -> None:
    loop, board, stopping = asyncio.get_running_loop(), Board(), asyncio.Event()
    config = uvicorn.Config(
        application(board, _asker(questions), stopping),
        lifespan="off",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        ws="none",
    )
    server = uvicorn.Server(config)
    buffer = bytearray(2 * LARGEST)

    def take() -> None:
        for _ in range(AT_ONCE):
            try:
                n = events.recv_into(buffer)
            except BlockingIOError:
                return
            if not n:
                loop.remove_reader(events)
                stopping.set()
                server.should_exit = True
                return
            board.take(*read(memoryview(buffer)[:n]))

    loop.add_reader(events, take)
    await server.serve(sockets=listeners)
    stopping.set()


def _asker(questions: socket.socket) -> Ask:
    """Return how the front is asked: one question at a time, each with its number."""
    turn, numbers = asyncio.Lock(), count(1)

    async def answer(number: bytes, what: str) -> bytes | None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(questions, number + b" " + what.encode())
        while datagram := await loop.sock_recv(questions, 1 << 20):
            theirs, _, text = datagram.partition(b" ")
            if theirs == number:  # not the late answer to an earlier one
                return text
        return None

    async def ask(what: str) -> bytes | None:
        async with turn:
            number = b"%d" % next(numbers)
            try:
                return await asyncio.wait_for(answer(number, what), ANSWER_S)
            except (asyncio.TimeoutError, OSError):
                return None

    return ask


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
