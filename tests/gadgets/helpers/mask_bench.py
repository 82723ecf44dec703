"""What the tests of the mask channel share: a binder, both peers, and one that misbehaves."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import zmq

from gadgets.mask.binder import MaskService
from gadgets.mask.codec import Codec
from gadgets.mask.messages import Applied, Hello, Message, Scope
from gadgets.mask.recon_end import ReconLink
from gadgets.mask.recon_port import ReconPort, RemoteReconPort
from gadgets.mask.sequence_port import SequencePort

ANYWHERE = "tcp://127.0.0.1:0"
PATIENCE = 20.0  # seconds until a test gives up; none waits that long when all is well
SLICE = Scope(slice=3)
FALLBACK = tuple(range(44, 52)) + tuple(range(80, 84))
CHOSEN = (0, 10, 44, 45, 46, 47, 48, 49, 50, 51, 70, 95)


def hello(**changes: Any) -> Hello:
    plain = Hello(
        scan_token=str(uuid.uuid4()),
        ky_min=0,
        ky_max=95,
        center=48,
        acquirable=tuple(range(96)),
        calibration=tuple(range(44, 52)),
        n_lines=12,
        group_size=4,
        fallback=FALLBACK,
        deadline_ms=PATIENCE * 1000,
    )
    return replace(plain, **changes)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the condition never came true")
        time.sleep(0.002)


def applied_in(link: ReconLink, scope: Scope) -> Applied:
    """Wait until the sequence has said what it measures."""
    until(lambda: link.applied(scope) is not None)
    applied = link.applied(scope)
    assert applied is not None
    return applied


def soon() -> float:
    return time.monotonic() + PATIENCE


@dataclass
class Channel:
    """A binder, and a reconstruction port to it."""

    endpoint: str
    port: ReconPort


@contextmanager
def channel_kind(kind: str) -> Iterator[Channel]:
    """Serve masks `in process` or `through maskd`; no thread may outlive it."""
    before = set(threading.enumerate())
    with MaskService(ANYWHERE) as service:
        near = kind == "in process"
        yield Channel(service.endpoint, service if near else RemoteReconPort(service.endpoint))
    left = set(threading.enumerate()) - before
    if left:
        raise RuntimeError(f"threads were left behind: {left}")


@contextmanager
def opened(channel: Channel, token: str | None, observe: Any = None) -> Iterator[ReconLink]:
    link = channel.port.open(token, observe)
    try:
        link.warmed()
        yield link
    finally:
        link.close()


@contextmanager
def pair(channel: Channel, **changes: Any) -> Iterator[tuple[SequencePort, ReconLink]]:
    fixed = hello(**changes)
    with (
        SequencePort(channel.endpoint, fixed) as sequence,
        opened(channel, fixed.scan_token) as link,
    ):
        assert sequence.wait_ready(PATIENCE)
        until(lambda: link.hello() is not None)
        yield sequence, link


class RawPeer:
    """A DEALER that says what it likes."""

    def __init__(self, endpoint: str) -> None:
        self.codec = Codec()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(endpoint)

    def __enter__(self) -> "RawPeer":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.destroy()

    def say(self, message: Message) -> None:
        self.socket.send_multipart(self.codec.encode(message))

    def hear(self, kind: type) -> Any:
        """Return the next message of a kind."""
        while self.socket.poll(PATIENCE * 1000):
            message = self.codec.decode(self.socket.recv_multipart())
            if isinstance(message, kind):
                return message
        raise TimeoutError(f"no {kind.__name__} came")
