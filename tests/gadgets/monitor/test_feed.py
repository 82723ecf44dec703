"""What is handed over to the monitor, and that a scan waits for none of it."""

import json
import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from gadgets.host.connection import words_of
from gadgets.mask.messages import Applied, Hello, MaskMessage, Nack, Scope, as_record
from gadgets.monitor.feed import LARGEST, Feed, Json, read
from gadgets.monitor.session_events import MOST_PIXELS, SessionEvents, small
from gadgets.mrd.geometry import Geometry
from gadgets.mrd.items import Acquisition, Burst
from tests.gadgets.helpers.closed_loop import N_KY, source

PATIENT = "DOE^JANE"


@pytest.fixture
def ends() -> Iterator[tuple[Feed, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    feed = Feed()
    feed.connect(ours)
    theirs.settimeout(20)
    with theirs:
        yield feed, theirs
        feed.connect(None)


def received(sock: socket.socket) -> list[tuple[Json, bytes]]:
    """Everything that lies ready."""
    sock.setblocking(False)
    found = []
    while True:
        try:
            found.append(read(sock.recv(2 * LARGEST)))
        except BlockingIOError:
            return found


def test_where_nobody_reads_events_are_dropped_whole_and_nobody_waits(
    ends: tuple[Feed, socket.socket],
) -> None:
    feed, theirs = ends

    def tell() -> None:
        for number in range(20_000):
            feed.tell({"number": number})

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it waited for room"
    kept = [event["number"] for event, _ in received(theirs)]
    assert kept == list(range(len(kept)))
    assert feed.dropped == 20_000 - len(kept) > 0


def test_an_event_for_nobody_is_dropped(ends: tuple[Feed, socket.socket]) -> None:
    feed, theirs = ends
    theirs.close()
    feed.tell({"kind": "lines"})
    assert feed.dropped == 1


def test_the_largest_image_fits_into_the_queue(ends: tuple[Feed, socket.socket]) -> None:
    feed, theirs = ends
    pixels = small(np.random.default_rng(0).normal(size=(512, 512)))
    assert pixels.shape == (MOST_PIXELS, MOST_PIXELS)
    feed.tell({"kind": "image"}, pixels.tobytes())
    assert received(theirs) == [({"kind": "image"}, pixels.tobytes())]


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (257, 3)])
def test_what_is_shown_is_small_and_its_brightest_is_white(shape: tuple[int, int]) -> None:
    image = np.linspace(-1, 1, shape[0] * shape[1]).reshape(shape).astype(np.complex64) * 1j
    image.flat[0] = np.nan
    grey = small(image)
    assert max(grey.shape) <= MOST_PIXELS
    assert grey.dtype == np.uint8
    assert shape == (1, 1) or grey.max() == 255


class Told(Feed):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Json] = []

    def tell(self, event: Json, pixels: bytes = b"") -> None:
        self.events.append(event)


def test_a_line_is_told_of_when_it_has_been_dealt_with() -> None:
    """So that nothing is told between a slice's last calibration line and its mask."""
    told, lines = Told(), source(1).acquisitions[:3]
    passing = SessionEvents(told, "a").passing(iter(lines))
    for number, line in enumerate(lines):
        assert next(passing) is line
        assert len(told.events) == number
    assert list(passing) == []
    assert [event["counters"] for event in told.events] == [[0], [1], [2]]


def test_lines_of_a_burst_are_one_event_and_noise_is_none() -> None:
    told, lines = Told(), source(1).acquisitions[:4]
    burst = Burst(
        headers=np.array([line.header for line in lines], lines[0].header.dtype),
        data=np.stack([line.data for line in lines]),
    )
    noise = lines[0].header.copy()
    noise["flags"] = 1 << 18
    items = [burst, Acquisition(header=noise, data=lines[0].data)]
    assert list(SessionEvents(told, "a").passing(iter(items))) == items
    assert told.events == [
        {"kind": "lines", "scan": "a", "slice": 0, "repetition": 0, "counters": [0, 1, 2, 3]}
    ]


def test_no_free_text_of_header_or_sequence_is_told() -> None:
    told = Told()
    events = SessionEvents(told, "a")
    geometry = Geometry.parse(source(2, measurement_id=PATIENT).header)
    assert geometry.measurement_id == PATIENT
    events.begun(geometry, "adaptive_modl")
    counters = tuple(range(N_KY))
    hello = Hello(
        scan_token=PATIENT,
        ky_min=0,
        ky_max=N_KY - 1,
        center=N_KY // 2,
        acquirable=counters,
        calibration=counters,
        n_lines=N_KY,
        fallback=counters,
        deadline_ms=20.0,
        scanner=PATIENT,
    )
    scope = Scope(slice=1)
    mask = MaskMessage(
        message_id="m",
        scan_token=PATIENT,
        sequence_no=1,
        scope=scope,
        ky_min=0,
        ky_max=N_KY - 1,
        counters=counters,
        model="",
        reason="predicted",
    )
    nack = Nack(scan_token=PATIENT, message_id="m", reason="late", detail=PATIENT)
    applied = Applied(
        scan_token=PATIENT,
        scope=scope,
        ky_min=0,
        ky_max=N_KY - 1,
        counters=counters,
        fallback=True,
        reason=PATIENT,
    )
    events.mask_message("received", as_record(hello))
    events.mask_message("sent", as_record(mask))
    events.mask_message("received", as_record(nack))
    events.mask_message("received", as_record(applied))
    assert [event["kind"] for event in told.events] == ["begun", "hello", "nack", "applied"]
    assert PATIENT not in json.dumps(told.events)
    assert told.events[2] == {
        "kind": "nack",
        "scan": "a",
        "slice": 1,
        "repetition": 0,
        "reason": "late",
    }


def test_a_failure_is_told_in_the_words_that_its_client_got() -> None:
    told, error = Told(), ValueError("no such thing")
    SessionEvents(told, "a").failed(error)
    assert told.events == [{"kind": "failed", "scan": "a", "words": words_of(error)}]
