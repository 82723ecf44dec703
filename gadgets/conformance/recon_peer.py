"""The sequence that tests a reconstruction: its mask channel, MRD stream and made-up object."""

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np
import zmq
from typing_extensions import Self

from ..mask.codec import Codec, MaskProtocolError
from ..mask.curve_keys import ClientKeys
from ..mask.messages import Ack, Applied, Hello, MaskMessage, Message, Nack, Scope
from ..mask.zmq_thread import open_socket
from ..mrd.geometry import SCAN_TOKEN
from ..mrd.header_layouts import ACQUISITION_HEADER, Flag
from ..mrd.header_xml import header_xml, with_user_parameter
from ..mrd.items import Acquisition, Image
from ..scanner.client import MrdClient

N_X, N_KY, CENTER, N_COILS = 64, 64, 32, 4
CALIBRATION = tuple(range(24, 40))
ACQUIRABLE = tuple(c for c in range(N_KY) if c not in (0, 5, N_KY - 1))
FALLBACK = tuple(sorted([*range(2, 24, 6), *CALIBRATION, *range(42, 62, 5)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A message as it came."""

    message: Message
    payload: bytes  # its frames, joined
    at: float


def hello(deadline_ms: float, **changes: Any) -> Hello:
    """Return what our sequence fixes, under a new token."""
    plain = Hello(
        scan_token=str(uuid.uuid4()),
        ky_min=0,
        ky_max=N_KY - 1,
        center=CENTER,
        acquirable=ACQUIRABLE,
        calibration=CALIBRATION,
        n_lines=len(FALLBACK),
        group_size=2,
        fallback=FALLBACK,
        deadline_ms=deadline_ms,
        scanner="mnet conformance",
    )
    return replace(plain, **changes)


class Peer:
    """A DEALER that hears everything and says what it likes."""

    def __init__(self, endpoint: str, keys: ClientKeys | None) -> None:
        self.codec = Codec()
        self.heard: list[Heard] = []
        self.garbage: list[str] = []  # what the other side said and should not have
        self._opened = open_socket(zmq.DEALER, endpoint, keys)
        self._opened.socket.setsockopt(zmq.LINGER, 0)

    def close(self) -> None:
        """Vanish without a word."""
        self._opened.close()
        self._opened.context.destroy(0)

    def say(self, message: Message) -> None:
        """Send a message."""
        self.raw(self.codec.encode(message))

    def raw(self, frames: list[bytes]) -> None:
        """Send frames; it is no fault of ours if nobody takes them."""
        try:
            self._opened.socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return

    def hear(self, seconds: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Take in what comes for a while or until `done`; returns whether it is done."""
        until = time.monotonic() + seconds
        while not done():
            left = until - time.monotonic()
            if left <= 0:
                return False
            if self._opened.socket.poll(max(1, min(20, int(1000 * left)))):
                self._take(self._opened.socket.recv_multipart())
        return True

    def of(self, kind: type) -> list[Any]:
        """Return the messages of a kind that came so far."""
        return [heard.message for heard in self.heard if isinstance(heard.message, kind)]

    def masks(self, scope: Scope) -> list[Heard]:
        """Return the masks for a scope that came so far, copies included."""
        found = (h for h in self.heard if isinstance(h.message, MaskMessage))
        return [h for h in found if getattr(h.message, "scope", None) == scope]

    def _take(self, frames: list[bytes]) -> None:
        try:
            message = self.codec.decode(frames)
        except MaskProtocolError as error:
            self.garbage.append(str(error))
            return
        at = time.monotonic()
        self.heard.append(Heard(message=message, payload=b"".join(frames), at=at))


class PeerScan:
    """One scan against a host: both sockets open, header sent; a context manager."""

    def __init__(
        self,
        endpoint: str,
        keys: ClientKeys | None,
        mrd: tuple[str, int],
        config: str,
        hello: Hello,
    ) -> None:
        self.hello = hello
        self._config, self._mrd = config, mrd
        self.peer = Peer(endpoint, keys)
        self._stack = ExitStack()
        self._stack.callback(lambda: self.peer.close())
        self._counter = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def begin(self, n_slices: int, token: str | None = None) -> None:
        """Say hello and open the MRD stream; its header has the hello's token unless told."""
        self.peer.say(self.hello)
        self._client = self._stack.enter_context(MrdClient(*self._mrd))
        matrix, fov = (N_X, N_KY, 1), (float(N_X), float(N_KY), 5.0)
        header = header_xml(
            encoded=matrix,
            encoded_fov=fov,
            recon=matrix,
            recon_fov=fov,
            n_coils=N_COILS,
            n_slices=n_slices,
        )
        token = self.hello.scan_token if token is None else token
        self._client.start(self._config, with_user_parameter(header, SCAN_TOKEN, token))

    def lines(self, number: int, counters: tuple[int, ...] | list[int]) -> None:
        """Send lines of one slice, flagged as the contract asks."""
        for counter in counters:
            self._counter += 1
            self._client.send(_line(number, counter, self._counter))

    def adaptive(self, number: int, counters: tuple[int, ...]) -> None:
        """Send what is left of a mask after its calibration."""
        self.lines(number, [c for c in counters if c not in CALIBRATION])

    def ack(self, mask: MaskMessage) -> None:
        """Accept a mask."""
        self.peer.say(Ack(scan_token=self.hello.scan_token, message_id=mask.message_id))

    def late(self, mask: MaskMessage) -> None:
        """Refuse a mask as late."""
        token = self.hello.scan_token
        self.peer.say(
            Nack(scan_token=token, message_id=mask.message_id, reason="late", detail="a trial")
        )

    def applied(self, number: int, mask: MaskMessage | None) -> tuple[int, ...]:
        """Announce a mask or the fallback; returns its lines."""
        counters = self.hello.fallback if mask is None else mask.counters
        self.peer.say(
            Applied(
                scan_token=self.hello.scan_token,
                scope=Scope(slice=number),
                ky_min=self.hello.ky_min,
                ky_max=self.hello.ky_max,
                counters=counters,
                fallback=mask is None,
                reason="a trial" if mask is None else mask.reason,
                message_id=None if mask is None else mask.message_id,
            )
        )
        return counters

    def rest(self, number: int, mask: MaskMessage | None = None) -> None:
        """Announce and send the rest of a slice."""
        self.adaptive(number, self.applied(number, mask))

    def finish(self, timeout_s: float) -> list[Image]:
        """Say CLOSE and return the images; PeerError if the host reported an error."""
        return self._client.finish(timeout_s)


def _line(number: int, counter: int, scan_counter: int) -> Acquisition:
    """Return one readout of a box, seen by coils that differ in phase."""
    header = np.zeros(1, ACQUISITION_HEADER)[0]
    header["version"], header["measurement_uid"], header["scan_counter"] = 1, 1, scan_counter
    header["number_of_samples"], header["center_sample"] = N_X, N_X // 2
    header["active_channels"] = header["available_channels"] = N_COILS
    header["sample_time_us"] = 5.0
    header["read_dir"], header["phase_dir"], header["slice_dir"] = np.eye(3)
    header["position"] = 0, 0, 6 * number
    header["kspace_encode_step_1"], header["slice"] = counter, number
    flags = Flag.MASK_CALIBRATION if counter in CALIBRATION else 0
    flags |= Flag.FIRST_IN_SLICE if counter == CALIBRATION[0] else 0
    header["flags"] = flags
    kx, coils = np.arange(N_X) - N_X // 2, np.arange(N_COILS)[:, None]
    value = np.sinc(0.2 * kx) * np.sinc(0.25 * (counter - CENTER)) * (1 + 0.2 * number)
    noise = np.random.default_rng((number, counter)).normal(size=(2, N_COILS, N_X))
    data = value * np.exp(1j * coils * (0.7 + 0.05 * kx)) + 1e-3 * (noise[0] + 1j * noise[1])
    return Acquisition(header=header, data=data.astype(np.complex64))
