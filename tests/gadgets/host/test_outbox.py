import threading
import time

import numpy as np
import pytest

from gadgets.worker.outbox import Outbox

LINE = [np.zeros(100, np.uint8)]


def taken(outbox: Outbox) -> list[int]:
    return [body["n"] for body, _ in outbox]


def test_what_was_put_comes_in_its_order_and_then_the_end() -> None:
    outbox = Outbox(most_bytes=1e9)
    for n in range(50):
        outbox.put({"n": n}, LINE)
    outbox.end()
    assert taken(outbox) == list(range(50))


def test_one_message_has_room_whatever_its_size() -> None:
    outbox = Outbox(most_bytes=1)
    outbox.put({"n": 0}, LINE)
    outbox.end()
    assert taken(outbox) == [0]


def test_beyond_its_room_a_message_waits_until_an_earlier_one_was_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outbox = Outbox(most_bytes=250)
    outbox.put({"n": 0}, LINE)
    outbox.put({"n": 1}, LINE)
    assert not caplog.text
    late = threading.Thread(target=outbox.put, args=({"n": 2}, LINE))
    late.start()
    late.join(0.2)
    assert late.is_alive()
    assert "its lines wait too, and masks will be late" in caplog.text
    messages = iter(outbox)
    next(messages)
    late.join(0.2)
    assert late.is_alive(), "the first one is on its way, not sent"
    next(messages)
    late.join(10)
    assert not late.is_alive()
    assert caplog.text.count("masks will be late") == 1


def test_what_is_discarded_neither_waits_nor_holds_anybody_up() -> None:
    outbox = Outbox(most_bytes=100)
    outbox.put({"n": 0}, LINE)
    late = threading.Thread(target=outbox.put, args=({"n": 1}, LINE))
    late.start()
    outbox.discard()
    late.join(10)
    assert not late.is_alive()
    outbox.put({"n": 2}, LINE)
    outbox.end()
    assert taken(outbox) == []


def test_a_drop_is_told_once_and_nothing_after_it() -> None:
    outbox, told = Outbox(most_bytes=1e9), []
    outbox.put({"n": 0}, LINE)
    outbox.unless_dropped(told.append, "item")
    outbox.drop(lambda: told.append("drop"))
    outbox.drop(lambda: told.append("drop"))
    outbox.unless_dropped(told.append, "item")
    assert told == ["item", "drop"]
    assert taken(outbox) == []


def test_a_drop_waits_for_the_item_that_is_being_sent() -> None:
    outbox, order = Outbox(most_bytes=1e9), []
    sending, may_end = threading.Event(), threading.Event()

    def send() -> None:
        sending.set()
        may_end.wait(10)
        order.append("item")

    item = threading.Thread(target=outbox.unless_dropped, args=(send,))
    item.start()
    assert sending.wait(10)
    drop = threading.Thread(target=outbox.drop, args=(lambda: order.append("drop"),))
    drop.start()
    time.sleep(0.05)
    may_end.set()
    for thread in (item, drop):
        thread.join(10)
    assert order == ["item", "drop"]
