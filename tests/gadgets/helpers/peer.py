"""A client of a host that says one thing after the other."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from gadgets.host.child_host import Address
from gadgets.mrd.messages import Close, Message, Text, read_message, write_message
from gadgets.mrd.sockets import SocketReader


class Peer:
    """One connection."""

    def __init__(self, address: Address) -> None:
        self.sock = socket.create_connection((address.host, address.port), timeout=60)
        self._read = SocketReader(self.sock)

    def say(self, *messages: Message) -> None:
        for message in messages:
            self.sock.sendall(write_message(message))

    def hear(self) -> Message:
        return read_message(self._read)

    def rest(self) -> list[Message]:
        heard: list[Message] = []
        while True:
            try:
                heard.append(self.hear())
            except EOFError:
                return heard


@contextmanager
def connected(address: Address) -> Iterator[Peer]:
    peer = Peer(address)
    try:
        yield peer
    finally:
        peer.sock.close()


def session(address: Address, *messages: Message) -> list[Message]:
    """Say everything in one session, and return what the host said."""
    with connected(address) as peer:
        peer.say(*messages)
        return peer.rest()


def error(messages: list[Message]) -> str:
    """Return the text of a session that was an error and nothing else."""
    assert [type(message) for message in messages] == [Text, Close]
    assert isinstance(messages[0], Text)
    return messages[0].text
