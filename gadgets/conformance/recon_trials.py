"""`mnet conformance --against-recon`: a sequence that tries a reconstruction, rule by rule."""

import time
import uuid
from collections.abc import Callable, Set
from dataclasses import dataclass, field, replace
from itertools import pairwise

import zmq

from ..mask.codec import MAGIC, MAX_MESSAGE
from ..mask.curve_keys import ClientKeys
from ..mask.messages import ErrorMessage, Hello, MaskMessage, Nack, Scope, Welcome
from ..mrd.items import Image
from ..scanner.client import PeerError
from .masks import MaskMaker
from .recon_peer import CALIBRATION, FALLBACK, Peer, PeerScan, hello
from .verdicts import Rule, Verdict, verdict

DEADLINE_MS = 5000.0  # generous: it is not speed that is judged
SHORT_MS = 300.0
SILENCE_S = 0.6  # how long to listen for what must not come
COPIES = 3


def _rule(name: str, section: str, sentence: str) -> Rule:
    return Rule(name=name, section=section, sentence=sentence)


RULES = {
    rule.name: rule
    for rule in (
        _rule("ready", "3", "welcome(ready) comes once hello and MRD header show one token."),
        _rule("calibration-first", "5", "No mask comes before its last calibration line is sent."),
        _rule("answered", "5", "Every scope gets its mask before the deadline."),
        _rule("budget", "6", "A mask has the hello's n_lines lines."),
        _rule("window", "6", "A mask has acquirable lines only, in the hello's window."),
        _rule("group-size", "6", "The adaptive lines of a mask are whole groups."),
        _rule("calibration-kept", "6", "A mask contains the calibration lines."),
        _rule("lines-as-applied", "5", "An image comes for every scope, of the lines it got."),
        _rule("fallback-marked", "5", "An image's meta mnet_fallback says whether it is one."),
        _rule("fallback-at-deadline", "5", "After the deadline a mask is not sent again."),
        _rule("late-mask", "7", "After `applied` or nack(late) a mask is not sent again."),
        _rule("duplicate", "7", "Without an answer the same bytes are sent again; then no more."),
        _rule("older-sequence-number", "7", "Sequence numbers grow with every mask of a scan."),
        _rule("foreign-mask", "3", "A scan whose tokens differ gets no mask."),
        _rule("two-sequences", "3", "Two sequences under one token get no mask, neither of them."),
        _rule("disagreement", "4", "A hello that contradicts the MRD header gets a nack, no mask."),
        _rule("oversized", "2", "A header over 16 KiB gets error(oversized), the scans go on."),
        _rule("malformed", "2", "A broken message gets error(malformed), the scans go on."),
        _rule("restart", "8", "A sequence back under its old token gets no mask, a new one does."),
        _rule("wrong-key", "9", "Who has no key on the allow-list hears nothing."),
    )
}
COURSE = RULES.keys() - {
    "fallback-at-deadline",
    "foreign-mask",
    "two-sequences",
    "disagreement",
    "restart",
    "wrong-key",
}  # what one scan of four slices shows


@dataclass(slots=True)
class _Notes:
    faults: dict[str, list[str]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def check(self, name: str, kept: bool, fault: str) -> None:
        """Note that a rule was tried, and what was wrong if it was not kept."""
        self.seen.add(name)
        if not kept:
            self.faults.setdefault(name, []).append(fault)


def check_recon(
    endpoint: str,
    host: str,
    port: int,
    *,
    config: str,
    keys: ClientKeys | None = None,
    grace_s: float = 0.25,
    patience_s: float = 60.0,
    rules: Set[str] = RULES.keys(),
) -> list[Verdict]:
    """Run the trials that show `rules` against a reconstruction and judge it.

    `patience_s` is how long a host may take to be ready or to finish; masks have 5 s. Raises
    ValueError for an endpoint that leaves this machine without keys.
    """
    trials = _Trials(
        endpoint, (host, port), config=config, keys=keys, grace_s=grace_s, patience_s=patience_s
    )
    return trials.run(rules)


class _Trials:
    def __init__(
        self,
        endpoint: str,
        mrd: tuple[str, int],
        *,
        config: str,
        keys: ClientKeys | None,
        grace_s: float,
        patience_s: float,
    ) -> None:
        self._endpoint, self._mrd, self._config, self._keys = endpoint, mrd, config, keys
        self._grace_s, self._patience_s = grace_s, patience_s
        self._notes = _Notes()

    def run(self, rules: Set[str]) -> list[Verdict]:
        """Run every trial; one that breaks off is the fault of the rules it was to show."""
        for trial, shown in (
            (self._course, COURSE),
            (self._deadline, {"fallback-at-deadline"}),
            (self._foreign, {"foreign-mask"}),
            (self._two_sequences, {"two-sequences"}),
            (self._disagreement, {"disagreement"}),
            (self._restart, {"restart"}),
            (self._wrong_key, {"wrong-key"}),
            (self._still_there, {"restart", "answered"}),
        ):
            if shown & rules:
                self._guarded(trial, shown)
        skip = "" if self._keys is not None else "the channel was tried without keys"
        return [
            verdict(
                rule,
                self._notes.faults.get(name, ()),
                seen=name in self._notes.seen,
                skip=skip if name == "wrong-key" else "",
            )
            for name, rule in RULES.items()
        ]

    def _guarded(self, trial: Callable[[], None], shown: Set[str]) -> None:
        try:
            trial()
        except (PeerError, OSError, TimeoutError) as error:
            for name in sorted(shown - self._notes.seen):
                self._notes.check(name, False, f"{type(error).__name__}: {error}")

    def _scan(self, fixed: Hello) -> PeerScan:
        return PeerScan(self._endpoint, self._keys, self._mrd, self._config, fixed)

    def _ready(self, scan: PeerScan) -> None:
        """Wait until the scan is paired and warm; TimeoutError without hope."""

        def said() -> bool:
            return any(welcome.ready for welcome in scan.peer.of(Welcome))

        ready = scan.peer.hear(self._patience_s, said)
        self._notes.check("ready", ready, "no welcome(ready) came")
        if not ready:
            raise TimeoutError("the scan was never ready")

    def _mask(self, scan: PeerScan, number: int, copies: int = 1) -> MaskMessage | None:
        """Wait for the mask of a slice and judge it; None if none came in time."""
        scope = Scope(slice=number)
        scan.peer.hear(DEADLINE_MS / 1000, lambda: len(scan.peer.masks(scope)) >= copies)
        masks = scan.peer.masks(scope)
        faults = "; ".join(scan.peer.garbage)
        self._notes.check("answered", bool(masks), f"slice {number}: no mask came {faults}".strip())
        if not masks or not isinstance(masks[0].message, MaskMessage):
            return None
        mask = masks[0].message
        self._judge(scan.hello, mask, f"slice {number}")
        return mask

    def _judge(self, fixed: Hello, mask: MaskMessage, where: str) -> None:
        check, chosen = self._notes.check, set(mask.counters)
        adaptive = len(chosen - set(fixed.calibration))
        n, outside = len(mask.counters), sorted(chosen - set(fixed.acquirable))
        check("budget", n == fixed.n_lines, f"{where}: expected {fixed.n_lines} lines, got {n}")
        inside = (mask.ky_min, mask.ky_max) == (fixed.ky_min, fixed.ky_max) and not outside
        check("window", inside, f"{where}: {mask.ky_min}..{mask.ky_max}, not acquirable {outside}")
        whole = adaptive % fixed.group_size == 0
        check("group-size", whole, f"{where}: {adaptive} lines in groups of {fixed.group_size}")
        missing = sorted(set(fixed.calibration) - chosen)
        check("calibration-kept", not missing, f"{where}: lines {missing[:5]} are missing")

    def _course(self) -> None:
        """Run a scan of four slices: ordinary, repeated, late, and with garbage on the channel."""
        with self._scan(hello(DEADLINE_MS)) as scan:
            scan.begin(4)
            self._ready(scan)
            self._ordinary(scan)
            self._repeated(scan)
            self._late(scan)
            self._garbage(scan)
            numbers = [m.sequence_no for m in _first_copies(scan.peer)]
            grow = all(a < b for a, b in pairwise(numbers))
            self._notes.check("older-sequence-number", grow, f"they came as {numbers}")
            self._images(scan.finish(self._patience_s))

    def _ordinary(self, scan: PeerScan) -> None:
        scan.lines(0, CALIBRATION[:-1])
        scan.peer.hear(SILENCE_S, lambda: bool(scan.peer.masks(Scope(slice=0))))
        early = scan.peer.masks(Scope(slice=0))
        self._notes.check("calibration-first", not early, "slice 0: a mask came too early")
        scan.lines(0, CALIBRATION[-1:])
        mask = self._mask(scan, 0)
        if mask is not None:
            scan.ack(mask)
            self._silent_after(scan, 0, "duplicate", "after its ack")
        scan.rest(0, mask)

    def _repeated(self, scan: PeerScan) -> None:
        scan.lines(1, CALIBRATION)
        mask = self._mask(scan, 1, COPIES)
        copies = scan.peer.masks(Scope(slice=1))
        enough = len(copies) >= COPIES and len({copy.payload for copy in copies}) == 1
        fault = f"slice 1: without an answer {len(copies)} copies came, not all the same bytes"
        self._notes.check("duplicate", enough, fault)
        if mask is not None:
            scan.ack(mask)
        scan.rest(1, mask)

    def _late(self, scan: PeerScan) -> None:
        scan.lines(2, CALIBRATION)
        mask = self._mask(scan, 2)
        counters = scan.applied(2, None)
        if mask is not None:
            scan.late(mask)
            self._silent_after(scan, 2, "late-mask", "after `applied` and nack(late)")
        scan.adaptive(2, counters)

    def _garbage(self, scan: PeerScan) -> None:
        """Say what is no message, and expect the mask as if nothing had been."""
        make, scope = MaskMaker(scan.hello), Scope(slice=3)
        codec = scan.peer.codec
        for reason, garbage in (
            ("oversized", make.oversized(scope, codec)),
            ("malformed", make.malformed(scope, codec)),
        ):
            before = len(_errors(scan.peer, reason))
            for frames in garbage:
                scan.peer.raw(frames)
            wanted = before + len(garbage)
            scan.peer.hear(5.0, lambda r=reason, w=wanted: len(_errors(scan.peer, r)) >= w)  # type: ignore[misc]
            got = len(_errors(scan.peer, reason)) - before
            fault = f"{len(garbage)} sent, {got} answered error({reason})"
            self._notes.check(reason, got == len(garbage), fault)
        vandal = Peer(self._endpoint, self._keys)
        vandal.raw([MAGIC, b"{}", bytes(MAX_MESSAGE + 1)])
        vandal.hear(0.1)
        vandal.close()
        scan.lines(3, CALIBRATION)
        mask = self._mask(scan, 3)
        for name in ("oversized", "malformed"):
            self._notes.check(name, mask is not None, "after it no mask came")
        if mask is not None:
            scan.ack(mask)
        scan.rest(3, mask)

    def _images(self, images: list[Image]) -> None:
        """Expect an image of each slice, and that of the third to say that it is a fallback."""
        pictures = [image for image in images if int(image.header["matrix_size"][1]) > 1]
        by_slice = {int(image.header["slice"]): image for image in pictures}
        missing = sorted({0, 1, 2, 3} - by_slice.keys())
        self._notes.check("lines-as-applied", not missing, f"no image of slices {missing}")
        for number, image in by_slice.items():
            said, wanted = image.meta.get("mnet_fallback"), "true" if number == 2 else "false"
            fault = f"slice {number}: expected mnet_fallback {wanted}, got {said}"
            self._notes.check("fallback-marked", said == wanted, fault)

    def _silent_after(self, scan: PeerScan, number: int, name: str, when: str) -> None:
        """Note a copy of a mask that comes after what should have ended it."""
        since = time.monotonic() + self._grace_s
        scan.peer.hear(SILENCE_S + self._grace_s)
        copies = [m for m in scan.peer.masks(Scope(slice=number)) if m.at > since]
        self._notes.check(name, not copies, f"slice {number}: {len(copies)} copies came {when}")

    def _deadline(self) -> None:
        with self._scan(hello(SHORT_MS)) as scan:
            scan.begin(1)
            self._ready(scan)
            scan.lines(0, CALIBRATION)
            scan.peer.hear(DEADLINE_MS / 1000, lambda: bool(scan.peer.masks(Scope(slice=0))))
            scan.peer.hear(SHORT_MS / 1000 + self._grace_s + SILENCE_S)
            masks = scan.peer.masks(Scope(slice=0))
            lasted = masks[-1].at - masks[0].at if masks else 0.0
            fault = f"it was repeated for {1e3 * lasted:.0f} ms, the deadline is {SHORT_MS:g} ms"
            kept = lasted <= SHORT_MS / 1000 + self._grace_s
            self._notes.check("fallback-at-deadline", kept, fault)
            scan.rest(0)
            scan.finish(self._patience_s)

    def _foreign(self) -> None:
        with self._scan(hello(DEADLINE_MS)) as scan:
            scan.begin(1, token=str(uuid.uuid4()))
            self._no_mask(scan, 0, "foreign-mask")
            scan.finish(self._patience_s)

    def _two_sequences(self) -> None:
        fixed = hello(DEADLINE_MS)
        twin = Peer(self._endpoint, self._keys)
        try:
            with self._scan(fixed) as scan:
                twin.say(fixed)
                scan.begin(1)
                self._no_mask(scan, 0, "two-sequences")
                twin.hear(0.1)
                masks = twin.of(MaskMessage)
                self._notes.check("two-sequences", not masks, "the second one got a mask")
                scan.finish(self._patience_s)
        finally:
            twin.close()

    def _disagreement(self) -> None:
        with self._scan(replace(hello(DEADLINE_MS), center=30)) as scan:
            scan.begin(1)
            self._ready(scan)
            scan.lines(0, CALIBRATION)
            scan.peer.hear(DEADLINE_MS / 1000, lambda: bool(scan.peer.of(Nack)))
            reasons = [nack.reason for nack in scan.peer.of(Nack)]
            masks = scan.peer.of(MaskMessage)
            kept = reasons[:1] == ["disagreement"] and not masks
            self._notes.check("disagreement", kept, f"nacks {reasons}, {len(masks)} masks")
            scan.rest(0)
            scan.finish(self._patience_s)

    def _restart(self) -> None:
        with self._scan(hello(DEADLINE_MS)) as scan:
            scan.begin(2)
            self._ready(scan)
            scan.lines(0, CALIBRATION)
            mask = self._mask(scan, 0)
            if mask is not None:
                scan.ack(mask)
            scan.rest(0, mask)
            scan.peer.close()
            scan.peer = Peer(self._endpoint, self._keys)
            scan.peer.say(scan.hello)
            self._no_mask(scan, 1, "restart")
            scan.finish(self._patience_s)

    def _no_mask(self, scan: PeerScan, number: int, name: str) -> None:
        """Send a slice that must get no mask, with its fallback."""
        scan.peer.hear(SILENCE_S)
        scan.peer.hear(DEADLINE_MS / 1000, lambda: _unpaired(scan.peer))  # a slow host says it late
        scan.lines(number, CALIBRATION)
        scan.peer.hear(2 * SILENCE_S)
        n_masks = len(scan.peer.of(MaskMessage))
        self._notes.check(name, n_masks == 0, f"{n_masks} masks came")
        scan.rest(number)

    def _wrong_key(self) -> None:
        if self._keys is None:
            return
        _, secret = zmq.curve_keypair()
        other, _ = zmq.curve_keypair()
        for who, keys in (
            ("a key that is not on the allow-list", replace(self._keys, secret=secret)),
            ("a wrong public key of the host", replace(self._keys, server=other)),
        ):
            peer = Peer(self._endpoint, keys)
            peer.say(hello(DEADLINE_MS))
            heard = peer.hear(2 * SILENCE_S, lambda p=peer: bool(p.heard))  # type: ignore[misc]
            peer.close()
            self._notes.check("wrong-key", not heard, f"a client with {who} got an answer")

    def _still_there(self) -> None:
        """Run an ordinary scan after all this: the channel serves whoever comes anew."""
        with self._scan(hello(DEADLINE_MS, fallback=FALLBACK)) as scan:
            scan.begin(1)
            self._ready(scan)
            scan.lines(0, CALIBRATION)
            mask = self._mask(scan, 0)
            self._notes.check("restart", mask is not None, "a scan with a new token got no mask")
            if mask is not None:
                scan.ack(mask)
            scan.rest(0, mask)
            scan.finish(self._patience_s)


def _unpaired(peer: Peer) -> bool:
    welcomes = peer.of(Welcome)
    return bool(welcomes) and not welcomes[-1].paired


def _errors(peer: Peer, reason: str) -> list[ErrorMessage]:
    return [error for error in peer.of(ErrorMessage) if error.reason == reason]


def _first_copies(peer: Peer) -> list[MaskMessage]:
    first: dict[str, MaskMessage] = {}
    for mask in peer.of(MaskMessage):
        first.setdefault(mask.message_id, mask)
    return list(first.values())
