"""A host in this process, sessions with it, and what it holds while nobody is there."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from gadgets.host.child_host import Address
from gadgets.host.serve import Host
from gadgets.limits.settings import DEFAULT, Limits
from gadgets.mrd.items import Image
from gadgets.mrd.messages import Close, ConfigFile, Header, Message, Text, write_message
from tests.gadgets.helpers.peer import session
from tests.gadgets.helpers.synthetic import Scanned, scanned

PATIENCE_S = 120.0
N_COILS = 2
SCAN = scanned(n_slices=2, n_coils=N_COILS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What this process holds."""

    threads: int
    files: int
    sessions: int
    megabytes: float  # resident


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A host that is warm."""

    host: Host
    address: Address

    def held(self) -> Held:
        """Look at the process."""
        open_now = self.host.metrics.registry.get_sample_value("mnet_sessions_open")
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return Held(
            threads=threading.active_count(),
            files=len(os.listdir("/proc/self/fd")),
            sessions=int(open_now or 0),
            megabytes=pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        )

    def settles(self, before: Held) -> str:
        """Wait until the host holds no more than before; "" once it does, or what it holds."""

        def back() -> bool:
            now = self.held()
            return now.sessions == 0 and now.threads <= before.threads and now.files <= before.files

        return "" if eventually(back) else f"held before {before}, after {self.held()}"

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection((self.address.host, self.address.port), timeout=PATIENCE_S)

    def scan(self, scan: Scanned = SCAN, config: str = "zero_filled.xml") -> str:
        """Run a sound scan; "" where every image came, or what came instead."""
        heard = session(self.address, *messages(scan, config))
        images = [one for one in heard if isinstance(one, Image)]
        texts = [one.text for one in heard if isinstance(one, Text)]
        n_slices = scan.geometry.n_slices
        return "" if len(images) == n_slices and not texts else f"{len(images)} images, {texts}"


def messages(scan: Scanned, config: str) -> list[Message]:
    """Return what a client says in a sound scan."""
    lines = [line for slice_ in range(scan.geometry.n_slices) for line in scan.lines(slice_)]
    return [ConfigFile(config), Header(scan.header), *lines, Close()]


def in_bytes(scan: Scanned = SCAN, config: str = "zero_filled.xml") -> bytes:
    """Return it as it is on the wire."""
    return b"".join(map(write_message, messages(scan, config)))


def eventually(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
    """Wait until something is so; what is waited for here has no event of its own."""
    until = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def heard_to_its_end(sock: socket.socket) -> bytes:
    """Read what a host says until it ends the connection."""
    parts = []
    with suppress(ConnectionError):
        while part := sock.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


@contextmanager
def running(limits: Limits = DEFAULT) -> Iterator[Running]:
    """Start a host with records, warm, with one scan behind it."""
    with TemporaryDirectory() as folder:
        host = Host(
            port=0,
            mask_endpoint="tcp://127.0.0.1:*",
            records=Path(folder) / "records",
            noise=Path(folder) / "noise",
            device="cpu",
            limits=limits,
        )
        with host:
            host.wait_warm()
            address = Address(host="127.0.0.1", port=host.port, mask_endpoint=host.mask_endpoint)
            one = Running(host=host, address=address)
            wrong = one.scan()
            if wrong:
                raise RuntimeError(f"a sound scan fails before anything is tried: {wrong}")
            eventually(lambda: one.held().sessions == 0)
            yield one
