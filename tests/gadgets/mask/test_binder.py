"""The binder and the two ends without sockets: who is paired, what is forwarded, what is due."""

import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gadgets.mask.binder import Binder, Letter, Peer
from gadgets.mask.messages import (
    Ack,
    Applied,
    Bye,
    ErrorMessage,
    Heartbeat,
    Hello,
    MaskMessage,
    Message,
    Nack,
    ReconHello,
    Scope,
    Welcome,
)
from gadgets.mask.recon_end import RESEND_S, ReconLink, Unpaired
from gadgets.mask.sequence_end import SequenceInbox

LINES = (4, 5, 6, 7)
HELLO = Hello(
    scan_token="scan",
    ky_min=0,
    ky_max=15,
    center=8,
    acquirable=tuple(range(16)),
    calibration=(6, 7),
    n_lines=4,
    fallback=LINES,
    deadline_ms=1000,
)
RECON = ReconHello(scan_token="scan", warm=True)


def mask_for(token: str, number: int = 1, slice_: int = 0) -> MaskMessage:
    return MaskMessage(
        message_id=str(uuid.uuid4()),
        scan_token=token,
        sequence_no=number,
        scope=Scope(slice=slice_),
        ky_min=0,
        ky_max=15,
        counters=LINES,
        model="",
        reason="predicted",
    )


def state_of(letters: list[Letter], peer: Peer) -> Welcome:
    return [m for to, m in letters if to == peer and isinstance(m, Welcome)][-1]


def paired() -> Binder:
    binder = Binder()
    binder.receive(b"s", HELLO)
    binder.receive(b"r", RECON)
    return binder


@pytest.mark.parametrize("sequence_first", [True, False])
def test_order_of_the_hellos_does_not_matter(sequence_first: bool) -> None:
    binder = Binder()
    hellos: list[tuple[Peer, Message]] = [(b"s", HELLO), (b"r", RECON)]
    first, second = hellos if sequence_first else hellos[::-1]
    assert not state_of(binder.receive(*first), first[0]).paired
    letters = binder.receive(*second)
    assert state_of(letters, b"s").ready
    assert state_of(letters, b"r").ready
    assert letters[0] == (b"r", HELLO)  # before the word that it is paired


def test_welcome_is_not_ready_until_the_recon_is_warm() -> None:
    binder = Binder()
    binder.receive(b"s", HELLO)
    cold = state_of(binder.receive(b"r", replace(RECON, warm=False)), b"s")
    assert (cold.paired, cold.ready) == (True, False)
    assert state_of(binder.receive(b"r", RECON), b"s").ready
    assert binder.receive(b"r", replace(RECON, warm=False)) == []  # warm stays warm


def test_mask_goes_to_the_sequence_and_answers_come_back() -> None:
    binder, mask = paired(), mask_for("scan")
    assert binder.receive(b"r", mask) == [(b"s", mask)]
    ack = Ack(scan_token="scan", message_id=mask.message_id)
    assert binder.receive(b"s", ack) == [(b"r", ack)]


@pytest.mark.parametrize("leaves_first", [True, False])
@pytest.mark.parametrize("newcomer", [HELLO, RECON], ids=["sequence", "recon"])
def test_second_peer_of_a_role_unpairs_the_token_until_all_are_gone(
    newcomer: Message, leaves_first: bool
) -> None:
    binder = paired()
    old: Peer = b"s" if newcomer is HELLO else b"r"
    if leaves_first:
        binder.lost(old)
    letters = binder.receive(b"new", newcomer)
    assert not state_of(letters, b"new").paired
    sender: Peer = b"r" if newcomer is HELLO else b"new"
    [(to, nack)] = binder.receive(sender, mask_for("scan"))
    assert to == sender
    assert isinstance(nack, Nack)
    assert nack.reason == "unpaired"
    for peer in (b"s", b"r", b"new"):
        binder.lost(peer)
    binder.receive(b"s2", HELLO)
    assert state_of(binder.receive(b"r2", RECON), b"s2").ready


@pytest.mark.parametrize(("peer", "greeting"), [(b"s", HELLO), (b"r", RECON)])
def test_peer_that_said_bye_cannot_come_back_on_the_same_connection(
    peer: Peer, greeting: Message
) -> None:
    binder = paired()
    binder.receive(peer, Bye(scan_token="scan"))
    [(_, error)] = binder.receive(peer, greeting)
    assert isinstance(error, ErrorMessage)
    assert error.reason == "conflict"
    assert not [m for _, m in binder.receive(b"r", mask_for("scan")) if m.__class__ is MaskMessage]


def test_partner_that_leaves_is_reported() -> None:
    binder = paired()
    assert not state_of(binder.receive(b"s", Bye(scan_token="scan")), b"r").paired
    [(_, nack)] = binder.receive(b"r", mask_for("scan"))
    assert isinstance(nack, Nack)
    assert nack.reason == "unpaired"


def test_mask_with_a_foreign_token_is_not_forwarded() -> None:
    binder = paired()
    binder.receive(b"other", replace(HELLO, scan_token="other"))
    [(to, nack)] = binder.receive(b"r", mask_for("other"))
    assert to == b"r"
    assert isinstance(nack, Nack)
    assert nack.reason == "foreign"


@pytest.mark.parametrize(
    ("peer", "message", "reason"),
    [
        (b"stranger", mask_for("scan"), "no-hello"),
        (b"s", mask_for("scan"), "role"),
        (b"r", Ack(scan_token="scan", message_id=str(uuid.uuid4())), "role"),
        (b"s", Welcome(scan_token="scan", paired=True, ready=True, reason=""), "role"),
        (b"s", RECON, "conflict"),
        (b"r", HELLO, "conflict"),
        (b"s", replace(HELLO, deadline_ms=1), "conflict"),
        (b"s", replace(HELLO, scan_token="other"), "conflict"),
        (b"s", Ack(scan_token="other", message_id=str(uuid.uuid4())), "conflict"),
    ],
)
def test_message_out_of_place_is_an_error_and_changes_nothing(
    peer: Peer, message: Message, reason: str
) -> None:
    binder, mask = paired(), mask_for("scan")
    [(to, error)] = binder.receive(peer, message)
    assert to == peer
    assert isinstance(error, ErrorMessage)
    assert error.reason == reason
    assert binder.receive(b"r", mask) == [(b"s", mask)]


def test_errors_and_heartbeats_are_never_answered() -> None:
    binder = paired()
    assert binder.receive(b"s", ErrorMessage(reason="malformed", detail="")) == []
    assert binder.receive(b"x", Heartbeat()) == []


EVENTS = st.tuples(
    st.sampled_from(["sequence", "recon", "bye", "mask"]),
    st.sampled_from([b"1", b"2", b"3", b"4", b"5"]),
    st.sampled_from(["a", "b"]),
)


@given(st.lists(EVENTS, max_size=40))
def test_no_mask_ever_reaches_a_sequence_of_another_token_or_one_of_two(
    events: list[tuple[str, bytes, str]],
) -> None:
    binder = Binder()
    here: dict[bytes, tuple[str, str]] = {}  # the model: accepted hellos of who is here,
    ever: dict[str, set[tuple[str, bytes]]] = {"a": set(), "b": set()}  # and of who was
    for event, peer, token in events:
        if event == "mask":
            letters = binder.receive(peer, mask_for(token))
            for to in [to for to, m in letters if isinstance(m, MaskMessage)]:
                assert ever[token] == {("recon", peer), ("sequence", to)}
                assert here[peer] == ("recon", token)
                assert here[to] == ("sequence", token)
        elif event == "bye":
            binder.receive(peer, Bye(scan_token=token))
            here.pop(peer, None)
        else:
            hello = replace(HELLO if event == "sequence" else RECON, scan_token=token)
            letters = binder.receive(peer, hello)
            if not any(isinstance(m, ErrorMessage) for _, m in letters):
                here[peer] = (event, token)
                ever[token].add((event, peer))
        for gone in ever.keys() - {t for _, t in here.values()}:
            ever[gone].clear()


def reply_to(session: SequenceInbox, mask: MaskMessage) -> str:
    match session.receive(mask):
        case Nack(reason=reason):
            return reason
        case Ack():
            return "ack"
    raise TypeError("a mask must be answered")


def apply(session: SequenceInbox, mask: MaskMessage | None, slice_: int = 0) -> Applied:
    return session.apply(
        Scope(slice=slice_),
        mask.counters if mask else LINES,
        fallback=mask is None,
        reason="",
        message_id=mask.message_id if mask else None,
    )


def test_sequence_takes_a_mask_once_and_acks_every_repeat() -> None:
    session, mask = SequenceInbox(HELLO), mask_for("scan")
    assert [reply_to(session, mask) for _ in range(2)] == ["ack", "ack"]
    assert session.mask(Scope(slice=0)) == mask
    assert apply(session, mask).message_id == mask.message_id
    assert reply_to(session, mask) == "ack"
    assert session.mask(Scope(slice=0)) is None


def test_newest_sequence_number_holds_and_lower_ones_are_stale() -> None:
    session = SequenceInbox(HELLO)
    old, new = mask_for("scan", 1), mask_for("scan", 2)
    assert reply_to(session, old) == "ack"
    assert reply_to(session, new) == "ack"
    assert reply_to(session, mask_for("scan", 1)) == "stale"
    assert reply_to(session, mask_for("scan", 2)) == "stale"
    assert session.mask(Scope(slice=0)) == new
    assert reply_to(session, old) == "ack"  # a repeat; it changes nothing
    assert session.mask(Scope(slice=0)) == new
    assert reply_to(session, mask_for("scan", 1, slice_=1)) == "ack"  # another scope


def test_mask_after_applied_is_late_even_if_it_was_acked_before() -> None:
    session, mask = SequenceInbox(HELLO), mask_for("scan")
    assert reply_to(session, mask) == "ack"
    apply(session, None)
    assert reply_to(session, mask) == "late"
    assert reply_to(session, mask_for("scan", 9)) == "late"


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (mask_for("other"), "foreign"),
        (replace(mask_for("scan"), counters=(5, 6, 7)), "invalid"),
        (replace(mask_for("scan"), counters=(1, 2, 3, 4)), "invalid"),
        (replace(mask_for("scan"), ky_max=14), "invalid"),
        (replace(mask_for("scan"), scope=Scope(slice=0, repetition=1)), "invalid"),
    ],
)
def test_sequence_refuses_what_is_not_for_it(mask: MaskMessage, reason: str) -> None:
    session = SequenceInbox(HELLO)
    assert reply_to(session, mask) == reason
    assert session.mask(mask.scope) is None


def test_sequence_cannot_apply_twice_or_what_is_no_mask() -> None:
    session = SequenceInbox(HELLO)
    with pytest.raises(ValueError, match="budget"):
        session.apply(Scope(slice=0), LINES[1:], fallback=False, reason="", message_id=None)
    apply(session, None)
    with pytest.raises(ValueError, match="already"):
        apply(session, None)


def open_session(hello: Hello) -> tuple[ReconLink, list[Message]]:
    """Return a paired session whose clock stands at 0, and what it posts."""
    posted: list[Message] = []
    session = ReconLink("scan", posted.append, clock=lambda: 0.0)
    session.begin()
    session.receive(hello)
    session.receive(Welcome(scan_token="scan", paired=True, ready=True, reason=""))
    return session, posted


def test_mask_is_due_again_until_it_is_answered() -> None:
    session, posted = open_session(HELLO)
    session.send(Scope(slice=0), LINES, model="m", reason="r")
    mask = posted[-1]
    assert isinstance(mask, MaskMessage)
    assert session.due(0.0) == []
    assert session.due(1.1 * RESEND_S) == [mask]
    assert session.due(1.2 * RESEND_S) == []
    assert session.due(2.2 * RESEND_S) == [mask]
    session.receive(Ack(scan_token="scan", message_id=mask.message_id))
    assert session.due(3.3 * RESEND_S) == []
    assert not session.waiting()


def test_every_mask_has_the_next_number() -> None:
    session, posted = open_session(HELLO)
    for number in range(4):
        session.send(Scope(slice=number), LINES, model="m", reason="r")
    masks = [message for message in posted if isinstance(message, MaskMessage)]
    assert [mask.sequence_no for mask in masks] == [1, 2, 3, 4]
    assert len({mask.message_id for mask in masks}) == 4


def test_a_mask_waits_for_its_answer_up_to_its_deadline_and_every_copy_is_noted() -> None:
    noted: list[tuple[str, str]] = []
    session = ReconLink(
        "scan",
        lambda message: None,
        lambda way, what: noted.append((way, what["kind"])),
        clock=lambda: 0.0,
    )
    session.receive(replace(HELLO, deadline_ms=1000.0))
    session.receive(Welcome(scan_token="scan", paired=True, ready=True, reason=""))
    assert not session.waiting()
    session.send(Scope(slice=0), LINES, model="m", reason="r")
    assert session.waiting()
    assert len(session.due(RESEND_S)) == 1, "due at its instant"
    assert len(session.due(0.9999)) == 1
    assert session.waiting()
    assert session.due(1.0) == [], "late at its deadline"
    assert not session.waiting()
    assert [one for one in noted if one[0] == "sent"] == [("sent", "mask")] * 3


def test_a_message_that_the_channel_dropped_ends_the_pair_with_its_words() -> None:
    session, _ = open_session(HELLO)
    session.receive(ErrorMessage(reason="malformed", detail="no mask of ours"))
    assert session.hello() is None
    with pytest.raises(Unpaired) as caught:
        session.send(Scope(slice=0), LINES, model="", reason="")
    assert caught.value.reason == "the mask channel dropped our message: no mask of ours"
    session.receive(Welcome(scan_token="scan", paired=True, ready=True, reason=""))
    assert session.hello() == HELLO
    with pytest.raises(Unpaired) as caught:
        ReconLink(None, lambda message: None).send(Scope(slice=0), LINES, model="", reason="")
    assert caught.value.reason == "the scan carries no mnet_scan_token"


@pytest.mark.parametrize(("deadline_ms", "copies"), [(0, 0), (3000 * RESEND_S, 2)])
def test_mask_is_not_sent_again_after_the_deadline(deadline_ms: float, copies: int) -> None:
    session, posted = open_session(replace(HELLO, deadline_ms=deadline_ms))
    session.send(Scope(slice=0), LINES, model="m", reason="r")
    assert isinstance(posted[-1], MaskMessage)  # the first goes out in any case
    due = [session.due(k * 1.1 * RESEND_S) for k in range(1, 9)]
    assert sum(map(len, due)) == copies
    assert not session.waiting()


def test_binder_without_answer_unpaired_scan_and_closed_link_raise_unpaired() -> None:
    session = ReconLink("scan", lambda message: None)
    with pytest.raises(Unpaired, match="no answer"):
        session.send(Scope(slice=0), LINES, model="", reason="")
    session, _ = open_session(HELLO)
    session.receive(Welcome(scan_token="scan", paired=False, ready=False, reason="two of them"))
    assert session.hello() is None
    with pytest.raises(Unpaired, match="two of them"):
        session.send(Scope(slice=0), LINES, model="", reason="")
    session, posted = open_session(HELLO)
    session.close()
    assert posted[-1] == Bye(scan_token="scan")
    with pytest.raises(Unpaired, match="closed"):
        session.refuse("no")


def test_recon_ignores_words_about_another_scan() -> None:
    session, _ = open_session(HELLO)
    session.receive(Welcome(scan_token="other", paired=False, ready=False, reason=""))
    assert session.hello() == HELLO
