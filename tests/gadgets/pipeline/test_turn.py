"""One scan's lines at a time, those with a mask due first, and nobody who waits holds the turn."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from gadgets.mrd.geometry import Geometry
from gadgets.mrd.items import Item
from gadgets.pipeline import turn as room
from gadgets.pipeline.intake import intake
from gadgets.pipeline.scan import Scan
from gadgets.pipeline.turn import LONGEST_S, Turn
from tests.gadgets.helpers.synthetic import scanned

ONE = scanned(n_ky=16)


@contextmanager
def others(turn: Turn, *urgent: bool) -> Iterator[list[bool]]:
    """Have threads ask for the turn, one behind the other; who had it stands in the list."""
    order: list[bool] = []

    def ask(is_urgent: bool) -> None:
        with turn.held(urgent=is_urgent):
            order.append(is_urgent)

    threads = [threading.Thread(target=ask, args=(each,)) for each in urgent]
    for thread in threads:
        thread.start()
        thread.join(0.1)
        assert thread.is_alive(), "two have the turn at once"
    yield order
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "nobody is woken"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LONGEST_S", 60.0)


@pytest.mark.usefixtures("patient")
def test_who_has_a_mask_due_comes_first() -> None:
    turn = Turn()
    with turn.held(), others(turn, False, False, True, True) as order:
        assert order == []
        turn._give()  # as the end of `held` does, while the threads can still be waited for
        threading.Event().wait(0.5)
        assert order == [True, True, False, False]


def test_the_turn_is_held_while_an_item_is_handled_and_not_while_one_is_waited_for() -> None:
    scan, held = Scan(geometry=Geometry.parse(ONE.header)), []

    def items() -> Iterator[Item]:
        for line in ONE.lines()[:3]:
            held.append(scan.turn._holder)
            yield line

    for _ in intake(scan, items()):
        held.append(scan.turn._holder)
    assert held == [None, threading.get_ident()] * 3
    assert scan.turn._holder is None


def test_a_scan_that_fails_gives_the_turn_back() -> None:
    scan = Scan(geometry=Geometry.parse(ONE.header))
    with pytest.raises(ValueError, match="no mask"), closing(intake(scan, ONE.lines())) as items:
        next(items)
        raise ValueError("no mask")
    assert scan.turn._holder is None


@pytest.mark.usefixtures("patient")
def test_others_have_the_turn_while_a_scan_waits_for_its_client() -> None:
    turn, had = Turn(), threading.Event()

    def other() -> None:
        with turn.held():
            had.set()

    thread = threading.Thread(target=other)
    with turn.held():
        thread.start()
        assert not had.wait(0.1)
        with turn.aside():
            assert had.wait(20)
        assert turn._holder == threading.get_ident()
    thread.join(20)
    with turn.aside():  # of nobody who has it
        assert turn._holder is None


def test_a_scan_that_hangs_loses_the_turn() -> None:
    turn, hung, go_on = Turn(), threading.Event(), threading.Event()

    def hangs() -> None:
        with turn.held():
            hung.set()
            assert go_on.wait(20)

    thread = threading.Thread(target=hangs)
    thread.start()
    assert hung.wait(20)
    began = time.monotonic()
    with turn.held(urgent=True):
        assert LONGEST_S / 2 < time.monotonic() - began < 20 * LONGEST_S
        go_on.set()
        thread.join(20)
        assert turn._holder == threading.get_ident()  # it was no longer the other's to give
    assert turn._holder is None
