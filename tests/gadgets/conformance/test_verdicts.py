"""The test bench for sequences: it passes sound ends, and each rule fails its own broken one."""

import json
import struct
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gadgets.cli import main
from gadgets.conformance.sequence_bench import SequenceBench
from gadgets.conformance.sequence_rules import BUDGET
from gadgets.conformance.sequence_trace import TRIALS, Trial
from gadgets.conformance.verdicts import Verdict, as_json, as_text, conforms, verdict
from gadgets.host.child_host import Address
from gadgets.mask.curve_keys import ClientKeys, ServerKeys, make_keys
from gadgets.scanner.sequence import play
from mnet.sequence.echo_order import EchoOrder
from tests.gadgets.helpers.closed_loop import sequence, source

sys.path.insert(0, str(Path(__file__).parents[3] / "vendor"))
import sequence_client as client

ANYWHERE = "tcp://127.0.0.1:*"
IDLE_S = 30.0
GRACE_S = 0.4


class Sound(client.Sequence):
    """The example as vendors get it."""


@contextmanager
def running(
    bench: SequenceBench,
    kind: type[client.Sequence],
    *,
    n_slices: int,
    n_scans: int = 1,
    keys: Path | None = None,
) -> Iterator[None]:
    def run() -> None:
        for _ in range(n_scans):
            with suppress(Broken, OSError):  # the bench must see it, not we
                one = kind(
                    bench.endpoint,
                    f"127.0.0.1:{bench.port}",
                    n_slices=n_slices,
                    deadline_ms=200.0,
                    tr_ms=0.0,
                    config="any.xml",
                    keys=keys,
                    wait_s=0.5 if keys else 10.0,
                )
                try:
                    one.scan()
                finally:
                    one.mrd.close()
                    one.context.destroy(0)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join(IDLE_S)


def check(
    kind: type[client.Sequence], trials: tuple[Trial, ...], n_scans: int = 1
) -> dict[str, Verdict]:
    with (
        SequenceBench(ANYWHERE, 0, grace_s=GRACE_S, trials=trials) as bench,
        running(bench, kind, n_slices=len(trials), n_scans=n_scans),
    ):
        return {v.rule.name: v for v in bench.run(IDLE_S if n_scans > 1 else 5.0)}


class Broken(Exception):  # noqa: N818
    """What a broken sequence does where a sound one goes on."""


class OtherCentre(Sound):
    def say(self, kind: str, payload: bytes = b"", **fields: Any) -> None:
        super().say(kind, payload, **(fields | ({"center": 30} if kind == "hello" else {})))


class OtherWindow(Sound):
    """Its MRD header allows a line more than its hello."""

    def send(self, number: int, body: bytes) -> None:
        if number == client.HEADER:
            last = f"<maximum>{client.N_KY - 1}</maximum><center>".encode()
            xml = body[4:].replace(
                last, last.replace(b"%d" % (client.N_KY - 1), b"%d" % client.N_KY)
            )
            xml = xml.replace(b"<y>%d</y>" % client.N_KY, b"<y>%d</y>" % (client.N_KY + 2), 1)
            body = struct.pack("<I", len(xml)) + xml
        super().send(number, body)


class TokenOfAnotherScan(Sound):
    def hello(self) -> None:
        super().hello()
        self.token = str(uuid.uuid4())


class AdaptiveLineFirst(Sound):
    def measure_slice(self, number: int) -> None:
        self.line(number, client.FALLBACK[0], 0)
        super().measure_slice(number)


class SilentAboutMasks(Sound):
    def announce(self, *_: Any) -> None:
        pass


class OtherLineThanAnnounced(Sound):
    def lines(self, number: int, counters: list[int], *, calibration: bool) -> None:
        if not calibration:
            free = [c for c in range(client.N_KY) if c not in {*counters, *client.CALIBRATION}]
            counters = [*counters[1:], free[0]]
        super().lines(number, counters, calibration=calibration)


class OwnTaste(Sound):
    def decide(self, scope: tuple[int, int]) -> Any:
        message_id, counters, reason = super().decide(scope)
        free = [c for c in range(client.N_KY) if c not in counters]
        adaptive = next(c for c in counters if c not in client.CALIBRATION)
        return message_id, sorted({*counters, free[0]} - {adaptive}), reason


class AnyBudget(Sound):
    def check(self, counters: list[int]) -> str:
        word = super().check(counters)
        return "" if word == "budget" else word


class AnyWindow(Sound):
    def window(self, header: Any) -> str:
        return ""

    def decide(self, scope: tuple[int, int]) -> Any:
        decided = super().decide(scope)
        outside = max(decided[1]) >= client.N_KY  # no bitmap of the example's can say so
        return (None, client.FALLBACK, "") if outside else decided


class AnyGroup(Sound):
    def check(self, counters: list[int]) -> str:
        short = len(counters) <= len(client.FALLBACK)
        return "" if short and set(client.CALIBRATION) <= set(counters) else super().check(counters)


class AnyCalibration(Sound):
    def check(self, counters: list[int]) -> str:
        return "" if len(counters) == len(client.FALLBACK) else super().check(counters)


class NoFlags(Sound):
    def line(self, number: int, ky: int, flags: int) -> None:
        super().line(number, ky, 0)


class Dawdler(Sound):
    def decide(self, scope: tuple[int, int]) -> Any:
        decided = super().decide(scope)
        threading.Event().wait(3 * GRACE_S)
        return decided


class ThreeDeadlines(Sound):
    def decide(self, scope: tuple[int, int]) -> Any:
        threading.Event().wait(2 * self.deadline_ms / 1000)
        return super().decide(scope)


class TakesLateMasks(Sound):
    def refusal(self, header: Any, scope: Any, *rest: Any) -> Any:
        self.applied.pop(scope, None)
        return super().refusal(header, scope, *rest)


class ForgetsMessageIds(Sound):
    def refusal(self, *arguments: Any) -> Any:
        self.accepted.clear()
        return super().refusal(*arguments)


class ForgetsSequenceNumbers(Sound):
    def refusal(self, *arguments: Any) -> Any:
        self.highest.clear()
        return super().refusal(*arguments)


class TakesAnyToken(Sound):
    def refusal(self, header: Any, *rest: Any) -> Any:
        return super().refusal({**header, "scan_token": self.token}, *rest)


class NoLimit(Sound):
    def receive(self, frames: list[bytes]) -> None:
        super().receive([frames[0], frames[1].strip(), *frames[2:]])


class DropsInSilence(Sound):
    def drop(self, reason: str, detail: str) -> None:
        pass


class DiesWithTheBinder(Sound):
    def receive(self, frames: list[bytes]) -> None:
        if b'"error"' in frames[1]:
            raise Broken
        super().receive(frames)


class NoScanWithoutMasks(Sound):
    def wait_ready(self, seconds: float) -> None:
        super().wait_ready(seconds)
        if not self.ready:
            self.mrd.close()
            raise Broken


DEFECTS: list[tuple[str, type[client.Sequence], tuple[Trial, ...]]] = [
    ("hello", OtherCentre, ("ordinary",)),
    ("hello", OtherWindow, ("ordinary",)),
    ("token", TokenOfAnotherScan, ("ordinary",)),
    ("calibration-first", AdaptiveLineFirst, ("ordinary",)),
    ("applied", SilentAboutMasks, ("ordinary",)),
    ("lines-as-applied", OtherLineThanAnnounced, ("ordinary",)),
    ("no-unasked-line", OwnTaste, ("ordinary",)),
    ("budget", AnyBudget, ("budget",)),
    ("window", AnyWindow, ("window",)),
    ("group-size", AnyGroup, ("group-size",)),
    ("calibration-kept", AnyCalibration, ("calibration",)),
    ("flags", NoFlags, ("ordinary",)),
    ("fallback-at-deadline", Dawdler, ("silence",)),
    ("late-mask", TakesLateMasks, ("late",)),
    ("duplicate", ForgetsMessageIds, ("duplicate",)),
    ("older-sequence-number", ForgetsSequenceNumbers, ("older",)),
    ("foreign-mask", TakesAnyToken, ("foreign",)),
    ("oversized", NoLimit, ("oversized",)),
    ("malformed", DropsInSilence, ("malformed",)),
    ("restart", DiesWithTheBinder, ("ordinary", "restart")),
]


@pytest.mark.parametrize(
    ("rule", "broken", "trials"), DEFECTS, ids=[kind.__name__ for _, kind, _ in DEFECTS]
)
def test_a_rule_fails_the_sequence_that_breaks_it(
    rule: str, broken: type[client.Sequence], trials: tuple[Trial, ...]
) -> None:
    assert check(broken, trials)[rule].status == "fail"


def test_three_times_the_deadline_fails_whatever_the_grace() -> None:
    with (
        SequenceBench(ANYWHERE, 0, grace_s=10.0, trials=("silence",)) as bench,
        running(bench, ThreeDeadlines, n_slices=1),
    ):
        found = {v.rule.name: v for v in bench.run(5.0)}["fallback-at-deadline"]
    assert found.status == "fail"
    assert "the deadline is 200 ms" in found.detail


def test_the_defects_cover_every_rule_but_that_of_the_keys_and_the_sound_client_keeps_all() -> None:
    found = check(Sound, TRIALS)
    assert {
        name: v.detail for name, v in found.items() if v.status not in ("pass", "skipped")
    } == {}
    assert {rule for rule, *_ in DEFECTS} | {"wrong-key"} == found.keys()
    assert found["wrong-key"].status == "skipped"


@pytest.mark.parametrize(("kind", "status"), [(Sound, "pass"), (NoScanWithoutMasks, "fail")])
def test_with_keys_the_first_scan_meets_a_wrong_host_and_must_go_through_on_its_fallback(
    kind: type[client.Sequence], status: str, tmp_path: Path
) -> None:
    make_keys(tmp_path / "keys", ["scanner"])
    keys = ServerKeys.load(tmp_path / "keys/host")
    with (
        SequenceBench(ANYWHERE, 0, keys=keys, grace_s=GRACE_S, trials=("ordinary",)) as bench,
        running(bench, kind, n_slices=1, n_scans=2, keys=tmp_path / "keys/scanner"),
    ):
        found = {v.rule.name: v for v in bench.run(5.0)}
    assert found["wrong-key"].status == status
    if status == "pass":  # and with the real key all is well
        assert found["lines-as-applied"].status == "pass"


def test_the_virtual_scanner_keeps_every_rule_under_curve(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys", ["scanner"])
    with SequenceBench(
        ANYWHERE, 0, keys=ServerKeys.load(tmp_path / "keys/host"), grace_s=GRACE_S
    ) as bench:
        address = Address(
            host="127.0.0.1",
            port=bench.port,
            mask_endpoint=bench.endpoint,
            mask_keys=ClientKeys.load(tmp_path / "keys/scanner"),
        )

        def run() -> None:
            for n_slices in (1, len(TRIALS)):  # the first meets the wrong host
                play(
                    source(n_slices),
                    sequence(deadline_ms=300.0, echo_order=EchoOrder(train=2)),
                    address,
                    "any.xml",
                )

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        found = bench.run(IDLE_S)
        thread.join(IDLE_S)
    assert [(v.rule.name, v.detail) for v in found if v.status != "pass"] == []


def test_what_was_not_tried_was_not_kept() -> None:
    unseen = verdict(BUDGET, (), seen=False)
    assert unseen.status == "not run"
    assert not conforms([unseen])
    assert not conforms([])
    assert conforms([verdict(BUDGET, ()), verdict(BUDGET, (), skip="no keys")])


def test_a_verdict_names_the_rule_its_sentence_and_its_section() -> None:
    verdicts = [verdict(BUDGET, ["slice 2: expected 24 lines, got 25", "slice 3"])]
    text, document = as_text(verdicts), as_json("sequence", verdicts)
    for part in ("FAIL", "budget", "got 25", "1 more", BUDGET.sentence, "section 6", "0 of 1"):
        assert part in text
    assert document["passed"] is False
    assert document["rules"][0] | {"status": "fail", "name": "budget"} == document["rules"][0]


def test_the_command_gives_its_verdicts_as_json_and_fails_where_nobody_came(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["conformance", "--quiet", "--listen", ANYWHERE, "--mrd", "0", "--idle-s", "0.1"]
    assert main([*arguments, "--json", str(tmp_path / "verdicts.json")]) == 1
    document = json.loads((tmp_path / "verdicts.json").read_text())
    assert document["passed"] is False
    assert {rule["status"] for rule in document["rules"]} == {"not run", "skipped"}
    assert main([*arguments, "--json", "-"]) == 1
    assert json.loads(capsys.readouterr().out.partition("rules kept\n")[2]) == document
