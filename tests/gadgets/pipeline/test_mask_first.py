"""Masks first: lines of other scans wait while a mask is decided, and masks come one by one."""

import threading
import time

import pytest

from gadgets.pipeline import mask_first
from gadgets.pipeline.mask_first import MaskFirst


def test_a_line_waits_until_no_mask_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_first, "PATIENCE_S", 60.0)
    masks, order = MaskFirst(), []
    waits = threading.Event()

    def line() -> None:
        waits.set()
        masks.wait()
        order.append("line")

    other = threading.Thread(target=line)
    with masks.deciding(), Due(masks):
        other.start()
        assert waits.wait(20)
        other.join(0.1)
        order.append("mask")
    other.join(20)
    assert order == ["mask", "line"]


class Due:
    """A second decision that waits for the first one meanwhile."""

    def __init__(self, masks: MaskFirst) -> None:
        self.done = threading.Event()
        self._thread = threading.Thread(target=self._decide, args=(masks,))

    def _decide(self, masks: MaskFirst) -> None:
        with masks.deciding():
            self.done.set()

    def __enter__(self) -> "Due":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert not self.done.wait(0.1), "two masks are decided at once"


def test_a_line_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_first, "PATIENCE_S", 0.01)
    masks = MaskFirst()
    with masks.deciding():
        masks.wait()


def test_without_a_mask_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_first, "PATIENCE_S", 600.0)
    masks = MaskFirst()
    with masks.deciding():
        pass
    began = time.monotonic()
    masks.wait()
    assert time.monotonic() - began < 300
