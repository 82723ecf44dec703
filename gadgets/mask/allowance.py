"""How much one peer of the mask channel may say, so that none keeps the others waiting."""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

# A scope costs a sequence 1.5 KB (its hello again, ack, applied): 40 a second, 80 at once. The
# largest hello takes a core 20 ms to check.
RATE = 64 * 1024  # bytes a second
BURST = 128 * 1024  # bytes at once
LEAST = 256  # bytes that the smallest message counts
MAX_KNOWN = 4096  # peers that are remembered


@dataclass(slots=True)
class _Account:
    left: float
    at: float
    refused: int = 0


class Allowances:
    """One account of bytes for every peer; it fills with RATE up to BURST."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[Hashable, _Account] = {}

    def take(self, peer: Hashable, n_bytes: int) -> bool:
        """Say whether a peer may say this much now, and count it if so."""
        now = self._clock()
        account = self._accounts.pop(peer, None) or _Account(left=BURST, at=now)
        self._accounts[peer] = account  # whoever spoke last is the last one
        if len(self._accounts) > MAX_KNOWN:
            del self._accounts[next(iter(self._accounts))]
        account.left = min(BURST, account.left + RATE * (now - account.at))
        account.at = now
        cost = max(n_bytes, LEAST)
        if cost > account.left:
            account.refused += 1
            return False
        account.left -= cost
        account.refused = 0
        return True

    def refused(self, peer: Hashable) -> int:
        """Return how many messages in a row a peer was refused."""
        account = self._accounts.get(peer)
        return 0 if account is None else account.refused
