"""The mask channel over real loopback sockets, with the binder in this process and beside it."""

import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gadgets.mask.binder import MaskService
from gadgets.mask.messages import Ack, Heartbeat, MaskMessage, Scope
from gadgets.mask.recon_end import Unpaired
from gadgets.mask.sequence_port import SequencePort
from tests.gadgets.helpers.mask_bench import (
    ANYWHERE,
    CHOSEN,
    FALLBACK,
    PATIENCE,
    SLICE,
    Channel,
    RawPeer,
    applied_in,
    channel_kind,
    hello,
    opened,
    pair,
    soon,
    until,
)


@pytest.fixture(params=["in process", "through maskd"])
def channel(request: pytest.FixtureRequest) -> Iterator[Channel]:
    with channel_kind(request.param) as served:
        yield served


def test_mask_and_applied_make_the_round_trip(channel: Channel) -> None:
    with pair(channel) as (sequence, link):
        message_id = link.send(SLICE, CHOSEN[::-1], model="abc", reason="predicted")
        mask = sequence.poll(SLICE, soon())
        assert mask is not None
        assert (mask.message_id, mask.counters) == (message_id, CHOSEN)
        assert (mask.model, mask.reason) == ("abc", "predicted")
        assert link.applied(SLICE) is None
        sequence.applied(
            SLICE, mask.counters, fallback=False, reason="predicted", message_id=message_id
        )
        applied = applied_in(link, SLICE)
        assert (applied.counters, applied.fallback, applied.message_id) == (
            CHOSEN,
            False,
            message_id,
        )
        assert link.applied(SLICE) == applied


def test_recon_learns_what_the_sequence_fixed(channel: Channel) -> None:
    with pair(channel, scanner="bench", repetition="each") as (_, link):
        learned = link.hello()
        assert learned is not None
        assert (learned.scanner, learned.repetition, learned.fallback) == (
            "bench",
            "each",
            FALLBACK,
        )


@pytest.mark.parametrize("sequence_first", [True, False])
def test_hello_may_come_before_or_after_the_recon_opens(
    channel: Channel, sequence_first: bool
) -> None:
    fixed = hello()
    with ExitStack() as stack:
        if sequence_first:
            sequence = stack.enter_context(SequencePort(channel.endpoint, fixed))
            assert not sequence.wait_ready(0.05)
        link = stack.enter_context(opened(channel, fixed.scan_token))
        if not sequence_first:
            assert link.hello() is None
            sequence = stack.enter_context(SequencePort(channel.endpoint, fixed))
        assert sequence.wait_ready(PATIENCE)
        until(lambda: link.hello() == fixed)


def test_sequence_is_not_ready_before_the_models_are_warm(channel: Channel) -> None:
    fixed = hello()
    link = channel.port.open(fixed.scan_token)
    with SequencePort(channel.endpoint, fixed) as sequence:
        until(lambda: link.hello() is not None)
        assert not sequence.wait_ready(0.05)
        link.warmed()
        assert sequence.wait_ready(PATIENCE)
    link.close()


@pytest.mark.parametrize("token", [None, "no-such-scan"])
def test_scan_without_a_partner_is_unpaired(channel: Channel, token: str | None) -> None:
    with SequencePort(channel.endpoint, hello()) as other, opened(channel, token) as link:
        assert not other.wait_ready(0.05)
        with pytest.raises(Unpaired):
            link.send(SLICE, CHOSEN, model="", reason="")
        assert link.hello() is None
        assert link.applied(SLICE) is None
        assert other.poll(SLICE, 0.0) is None


def test_two_concurrent_scans_with_equal_measurement_ids_get_their_own_masks(
    channel: Channel,
) -> None:
    # The measurement id stands in the token's human-readable part; only the whole is compared.
    with (
        pair(channel, scan_token="45387_25098:a") as (sequence_a, link_a),
        pair(channel, scan_token="45387_25098:b") as (sequence_b, link_b),
    ):
        for n in range(20):
            scope = Scope(slice=n)
            id_a = link_a.send(scope, CHOSEN, model="a", reason="")
            id_b = link_b.send(scope, FALLBACK, model="b", reason="")
            mask_a, mask_b = sequence_a.poll(scope, soon()), sequence_b.poll(scope, soon())
            assert mask_a is not None
            assert mask_b is not None
            assert (mask_a.message_id, mask_a.model) == (id_a, "a")
            assert (mask_b.message_id, mask_b.model) == (id_b, "b")


def test_two_concurrent_scans_with_the_measurement_id_as_token_get_no_mask(
    channel: Channel,
) -> None:
    with pair(channel, scan_token="45387") as (first, link):
        with SequencePort(channel.endpoint, hello(scan_token="45387")) as second:
            until(lambda: link.hello() is None)
            with pytest.raises(Unpaired, match="2 sequences"):
                link.send(SLICE, CHOSEN, model="", reason="")
            until(lambda: not first.wait_ready(0.0))
            assert not second.wait_ready(0.05)
            assert first.poll(SLICE, 0.0) is None
            assert second.poll(SLICE, 0.0) is None
        with pytest.raises(Unpaired):  # the newcomer left, but which was it that we know?
            link.send(SLICE, CHOSEN, model="", reason="")


def test_second_recon_for_a_token_unpairs_both(channel: Channel) -> None:
    with pair(channel) as (sequence, link):
        fixed = link.hello()
        assert fixed is not None
        with opened(channel, fixed.scan_token) as second:
            until(lambda: link.hello() is None)
            for each in (link, second):
                with pytest.raises(Unpaired):
                    each.send(SLICE, CHOSEN, model="", reason="")
        assert sequence.poll(SLICE, 0.0) is None


@pytest.mark.parametrize("same_token", [True, False])
def test_sequence_restarted_in_mid_scan_gets_no_mask_meant_for_the_former(
    channel: Channel, same_token: bool
) -> None:
    fixed = hello()
    with ExitStack() as stack:
        link = stack.enter_context(opened(channel, fixed.scan_token))
        with SequencePort(channel.endpoint, fixed) as former:
            assert former.wait_ready(PATIENCE)
            until(lambda: link.hello() is not None)
            link.send(SLICE, CHOSEN, model="", reason="never read")
        token = fixed.scan_token if same_token else str(uuid.uuid4())
        again = stack.enter_context(
            SequencePort(channel.endpoint, replace(fixed, scan_token=token))
        )
        until(lambda: link.hello() is None)

        def unpaired() -> bool:  # not before its bye is there: until then it may come back
            try:
                link.send(SLICE, CHOSEN, model="", reason="")
            except Unpaired:
                return True
            return False

        until(unpaired)
        assert again.poll(SLICE, time.monotonic() + 0.2) is None
        if not same_token:  # and its own partner serves it
            mine = stack.enter_context(opened(channel, token))
            assert again.wait_ready(PATIENCE)
            until(lambda: mine.hello() is not None)
            message_id = mine.send(SLICE, CHOSEN, model="", reason="")
            mask = again.poll(SLICE, soon())
            assert mask is not None
            assert mask.message_id == message_id


def test_sequence_that_vanishes_without_a_bye_is_noticed(channel: Channel) -> None:
    fixed = hello()
    with opened(channel, fixed.scan_token) as link:
        with RawPeer(channel.endpoint) as peer:
            peer.say(fixed)
            until(lambda: link.hello() is not None)
        until(lambda: link.hello() is None)


def test_late_mask_is_nacked_and_not_sent_again(channel: Channel) -> None:
    seen: list[tuple[str, dict[str, Any]]] = []
    fixed = hello()
    with (
        SequencePort(channel.endpoint, fixed) as sequence,
        opened(channel, fixed.scan_token, lambda way, record: seen.append((way, record))) as link,
    ):
        until(lambda: link.hello() is not None)
        sequence.applied(SLICE, FALLBACK, fallback=True, reason="deadline")
        message_id = link.send(SLICE, CHOSEN, model="", reason="too late")
        until(
            lambda: (
                sequence.poll(SLICE, 0.0) is not None
                or any(way == "received" and r["kind"] == "nack" for way, r in seen)
            )
        )
        [nack] = [r for way, r in seen if way == "received" and r["kind"] == "nack"]
        assert (nack["reason"], nack["message_id"]) == ("late", message_id)
        applied = applied_in(link, SLICE)
        assert (applied.fallback, applied.reason, applied.counters) == (True, "deadline", FALLBACK)


def test_observer_sees_every_mask_message_in_both_directions(channel: Channel) -> None:
    seen: list[tuple[str, str]] = []
    fixed = hello()
    with (
        SequencePort(channel.endpoint, fixed) as sequence,
        opened(
            channel, fixed.scan_token, lambda way, record: seen.append((way, record["kind"]))
        ) as link,
    ):
        until(lambda: link.hello() is not None)
        link.send(SLICE, CHOSEN, model="", reason="")
        assert sequence.poll(SLICE, soon())
        sequence.applied(SLICE, CHOSEN, fallback=False, reason="")
        assert applied_in(link, SLICE)
        for message in [
            ("received", "hello"),
            ("sent", "mask"),
            ("received", "ack"),
            ("received", "applied"),
        ]:
            assert message in seen


def test_mask_is_repeated_until_the_ack(channel: Channel) -> None:
    fixed = hello()
    with RawPeer(channel.endpoint) as sequence, opened(channel, fixed.scan_token) as link:
        sequence.say(fixed)
        until(lambda: link.hello() is not None)
        message_id = link.send(SLICE, CHOSEN, model="", reason="")
        copies = [sequence.hear(MaskMessage) for _ in range(3)]
        assert {copy.message_id for copy in copies} == {message_id}
        sequence.say(Ack(scan_token=fixed.scan_token, message_id=message_id))
        until(lambda: not link.waiting())


def test_nobody_repeats_a_mask_after_the_deadline(channel: Channel) -> None:
    fixed, noted = hello(deadline_ms=120), []

    def note(direction: str, header: dict[str, Any]) -> None:
        if direction == "sent" and header["kind"] == "mask":
            noted.append(header["message_id"])

    with RawPeer(channel.endpoint) as sequence, opened(channel, fixed.scan_token, note) as link:
        sequence.say(fixed)
        until(lambda: link.hello() is not None)
        message_id = link.send(SLICE, CHOSEN, model="", reason="")
        until(lambda: not link.waiting())
        n_sent, heard = len(noted), []
        while sum(isinstance(one, Heartbeat) for one in heard) < 2:  # long after a repeat is due
            heard.append(sequence.hear(object))
        assert [one.message_id for one in heard if isinstance(one, MaskMessage)] == noted
        assert noted == [message_id] * n_sent


def test_deadline_of_zero_uses_the_fallback_and_the_scan_goes_on(channel: Channel) -> None:
    with pair(channel, deadline_ms=0) as (sequence, link):
        for n in range(5):
            scope = Scope(slice=n)
            assert sequence.poll(scope, time.monotonic()) is None
            sequence.applied(scope, FALLBACK, fallback=True, reason="deadline")
            link.send(scope, CHOSEN, model="", reason="")
            applied = applied_in(link, scope)
            assert (applied.fallback, applied.counters) == (True, FALLBACK)
            assert sequence.poll(scope, time.monotonic() + 0.01) is None


def test_recon_that_disagrees_with_the_hello_is_heard(channel: Channel) -> None:
    with pair(channel) as (sequence, link):
        link.refuse("the configuration says 8 lines, hello says 12")
        until(lambda: sequence.poll(SLICE, 0.0) is None and sequence.refused is not None)
        assert "hello says 12" in str(sequence.refused)
        assert not sequence.wait_ready(0.0)


def test_service_that_closes_tells_its_peers() -> None:
    fixed = hello()
    with MaskService(ANYWHERE) as service:
        sequence = SequencePort(service.endpoint, fixed)
        link = service.open(fixed.scan_token)
        link.warmed()
        assert sequence.wait_ready(PATIENCE)
    with pytest.raises(Unpaired, match="closed"):
        link.send(SLICE, CHOSEN, model="", reason="")
    link.close()
    until(lambda: sequence.poll(SLICE, 0.0) is None and not sequence.wait_ready(0.0))
    sequence.close()
    sequence.close()


def test_ipc_wildcard_port_and_ipv6_loopback_serve_as_well(tmp_path: Path) -> None:
    endpoints = [f"ipc://{tmp_path}/masks", "tcp://127.0.0.1:*"]
    if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
        endpoints.append("tcp://[::1]:0")
    for endpoint in endpoints:
        with MaskService(endpoint) as host, pair(Channel(host.endpoint, host)) as (sequence, link):
            link.send(SLICE, CHOSEN, model="", reason="")
            assert sequence.poll(SLICE, soon()) is not None
