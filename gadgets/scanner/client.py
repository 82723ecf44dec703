"""The client's end of an MRD stream: send acquisitions, collect images and errors."""

import logging
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType

from typing_extensions import Self

from ..errors import GadgetsError, ProtocolError
from ..limits.waiting import prepare
from ..mask.sequence_port import SequencePort
from ..mrd.items import Acquisition, Image, Waveform
from ..mrd.messages import Close, ConfigFile, Header, Message, Text, message_buffers, read_message
from ..mrd.sockets import SocketReader, put_all

log = logging.getLogger(__name__)
ANSWER_S = 2.0  # in which a binder says welcome, also one that has no reconstruction yet


class PeerError(GadgetsError):
    """The host reported an error, or ended without saying so."""


def answered(port: SequencePort, endpoint: str) -> None:
    """Wait until somebody at the mask endpoint says anything; PeerError where nobody does."""
    if not port.wait_answer(ANSWER_S):
        why = f" ({port.refused})" if port.refused else ""
        raise PeerError(
            f"nobody answers on the mask channel at {endpoint}{why}: expected `mnet serve` or "
            "`mnet maskd` there; see --mask-endpoint and --mask-keys"
        )


class MrdClient:
    """One session with a host; a context manager. Images arrive on a thread of their own."""

    def __init__(self, host: str, port: int, *, timeout_s: float = 30.0) -> None:
        self._sock = socket.create_connection((host, port), timeout=timeout_s)
        self._sock.settimeout(None)
        prepare(self._sock)
        self.images: list[Image] = []
        self.errors: list[str] = []
        self.said: list[str] = []  # by the host, and no error
        self._reader = threading.Thread(target=self._read, name="images", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # the host closed first
            self._sock.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._sock.close()

    def start(self, config: str, header: bytes) -> None:
        """Choose a pipeline of the host by name and send the MRD header."""
        self.send(ConfigFile(config))
        self.send(Header(header))

    def send(self, message: Message) -> None:
        """Send one message.

        Raises
        ------
        PeerError
            If the host has closed; with the errors it sent before.
        """
        try:
            put_all(self._sock.sendmsg, message_buffers(message))
        except OSError as error:
            self._reader.join(5)
            raise PeerError("; ".join(self.errors) or f"the host closed: {error}") from error

    def send_all(self, items: Iterable[Acquisition | Waveform]) -> None:
        """Send readouts and waveforms."""
        for item in items:
            self.send(item)

    def finish(self, timeout_s: float = 600.0) -> list[Image]:
        """Say that all is sent, wait for the host's end, and return its images.

        Raises
        ------
        PeerError
            If the host reported an error, ended without CLOSE, or is silent for `timeout_s`.
        """
        self.send(Close())
        self._reader.join(timeout_s)
        if self._reader.is_alive():
            raise PeerError(f"the host did not finish within {timeout_s:g} s")
        if self.errors:
            raise PeerError("; ".join(self.errors))
        return self.images

    def _read(self) -> None:
        read = SocketReader(self._sock)
        try:
            while True:
                message = read_message(read)
                if isinstance(message, Image):
                    self.images.append(message)
                elif isinstance(message, Text) and "ERROR" in message.text:
                    self.errors.append(message.text.strip())
                elif isinstance(message, Text):
                    self.said.append(message.text.strip())
                    log.warning("the host says: %s", message.text.strip())
                elif isinstance(message, Close):
                    return
        except (EOFError, OSError) as error:
            self.errors.append(f"the host ended the connection without CLOSE: {error}")
        except ProtocolError as error:
            self.errors.append(str(error))
