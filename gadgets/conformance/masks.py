"""The masks and the garbage with which the test bench tries a sequence."""

import random
import uuid
from dataclasses import replace
from itertools import count

from ..mask.codec import MAGIC, MAX_HEADER, Codec
from ..mask.messages import Hello, MaskMessage, Scope

Frames = list[bytes]


class MaskMaker:
    """Masks for one scan, good ones and such as break one rule."""

    def __init__(self, hello: Hello, seed: int = 0) -> None:
        self._hello = hello
        self._random = random.Random(seed)
        self._numbers = count(1)
        self._movable = sorted(set(hello.acquirable) - set(hello.calibration))
        self._n_adaptive = hello.n_lines - len(hello.calibration)

    def good(self, scope: Scope) -> MaskMessage:
        """Return a mask that the sequence must take; not the fallback if there is another."""
        for _ in range(20):
            chosen = self._random.sample(self._movable, self._n_adaptive)
            counters = tuple(sorted([*self._hello.calibration, *chosen]))
            if counters != self._hello.fallback:
                break
        hello = self._hello
        return MaskMessage(
            message_id=str(uuid.UUID(int=self._random.getrandbits(128), version=4)),
            scan_token=hello.scan_token,
            sequence_no=next(self._numbers),
            scope=scope,
            ky_min=hello.ky_min,
            ky_max=hello.ky_max,
            counters=counters,
            model="mnet conformance",
            reason="trial",
        )

    def wrong_budget(self, scope: Scope) -> MaskMessage:
        """Return a mask that is one whole group too long, or too short if there are no more."""
        mask, size = self.good(scope), self._hello.group_size
        free = [c for c in self._movable if c not in mask.counters]
        if len(free) >= size:
            return _with(mask, {*mask.counters, *self._random.sample(free, size)})
        return _with(mask, set(mask.counters) - set(self._adaptive(mask)[:size]))

    def outside_window(self, scope: Scope) -> list[MaskMessage]:
        """Return a mask whose window is not the hello's, and one of lines not acquirable."""
        hello, mask = self._hello, self.good(scope)
        rest = set(mask.counters) - set(self._adaptive(mask)[-1:])
        wider = replace(_with(mask, {*rest, hello.ky_max + 1}), ky_max=hello.ky_max + 1)
        gaps = set(range(hello.ky_min, hello.ky_max + 1)) - set(hello.acquirable)
        if not gaps:
            return [wider]
        return [wider, _with(self.good(scope), {*rest, min(gaps)})]

    def broken_group(self, scope: Scope) -> MaskMessage:
        """Return a mask with one line less: its last group is not whole."""
        mask = self.good(scope)
        return _with(mask, set(mask.counters) - set(self._adaptive(mask)[-1:]))

    def calibration_missing(self, scope: Scope) -> MaskMessage:
        """Return a mask of the right size in which another line took a calibration line's place."""
        mask = self.good(scope)
        free = [c for c in self._movable if c not in mask.counters]
        rest = set(mask.counters) - {self._hello.calibration[0]}
        return _with(mask, {*rest, *free[:1]})

    def pair(self, scope: Scope) -> tuple[MaskMessage, MaskMessage]:
        """Return a newer and an older mask."""
        older = self.good(scope)
        return self.good(scope), older

    def foreign(self, scope: Scope) -> MaskMessage:
        """Return a good mask of another scan."""
        return replace(self.good(scope), scan_token=str(uuid.uuid4()))

    def oversized(self, scope: Scope, codec: Codec) -> list[Frames]:
        """Return a message with a header over the limit; sound but for its size."""
        magic, header, payload = codec.encode(self.good(scope))
        return [[magic, header.ljust(MAX_HEADER + 4096), payload]]

    def malformed(self, scope: Scope, codec: Codec) -> list[Frames]:
        """Return messages that are none, each in its own way."""
        _, header, payload = codec.encode(self.good(scope))
        n_lines = self._hello.n_lines
        promised = header.replace(b'"n_lines":%d' % n_lines, b'"n_lines":%d' % (n_lines + 1))
        return [
            [b"AMSK9", header, payload],
            [MAGIC, header[:-1], payload],
            [MAGIC, header, payload + b"\0"],
            [MAGIC, promised, payload],
            [MAGIC, header],
        ]

    def _adaptive(self, mask: MaskMessage) -> list[int]:
        return [c for c in mask.counters if c not in self._hello.calibration]


def _with(mask: MaskMessage, counters: set[int]) -> MaskMessage:
    return replace(mask, counters=tuple(sorted(counters)))
