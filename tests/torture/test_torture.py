"""The short run of `make torture`, and what earlier runs have found."""

from collections.abc import Iterator

import pytest

from gadgets.errors import ProtocolError
from tests.torture import (
    part_concurrency,
    part_cuts,
    part_idle,
    part_kills,
    part_slow_readers,
    part_soak,
)
from tests.torture.__main__ import ORDER, available, main
from tests.torture.effort import Effort, Outcome
from tests.torture.hosts import Running, running
from tests.torture.part_fuzz import tried
from tests.torture.targets import Target, targets

SHORT = Effort(short=True)
FUZZED = (
    *("codec", "MRD header", "pipeline XML", "image attributes", "mask messages, headers"),
    *("mask messages, payloads", "hello in the MRD stream", "FIRE's JSON", "HDF5", "records"),
    *("cards of weights", "tensors of weights", "keys, scanner/server.pub"),
    *("keys, allowed/scanner.pub", "keys, scanner/client.key"),
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return {target.name: target for target in targets(tmp_path_factory.mktemp("fuzz"))}


@pytest.fixture(scope="module")
def host() -> Iterator[Running]:
    with running() as one:
        yield one


@pytest.mark.parametrize("name", FUZZED)
def test_damaged_input_is_read_or_refused_in_our_words_and_soon(
    name: str, found: dict[str, Target], caplog: pytest.LogCaptureFixture
) -> None:
    assert set(found) == set(FUZZED)
    caplog.set_level("CRITICAL", logger="gadgets")
    outcome = tried(found[name], SHORT)
    assert outcome.faults == []
    assert outcome.n == found[name].short
    assert outcome.figures["refused"] > 0, "nothing was damaged"


def test_a_fuzzer_tells_faults_and_how_to_find_them_again(found: dict[str, Target]) -> None:
    def read(data: object) -> None:
        raise KeyError("x")

    target = found["codec"]
    broken = Target(
        name=target.name,
        seeds=target.seeds,
        damage=lambda data, draw: data,
        read=read,
        errors=(ProtocolError,),
        full=1,
        short=2,
    )
    assert tried(broken, SHORT).faults == [
        "case 0 of seed 1: KeyError: 'x'",
        "case 1 of seed 1: KeyError: 'x'",
    ]


def test_a_case_is_the_same_whenever_it_is_drawn(found: dict[str, Target]) -> None:
    target = found["codec"]
    first, again = (target.damage(target.seeds[2], SHORT.random("x", 5)) for _ in range(2))
    assert first == again != target.seeds[2]
    assert SHORT.random("x", 6).random() != SHORT.random("x", 5).random()


def test_a_stream_cut_anywhere_ends_in_an_error_of_ours() -> None:
    outcome = part_cuts.in_memory(SHORT)
    assert (outcome.faults, outcome.n > 50) == ([], True)


def sound(outcome: Outcome) -> None:
    assert outcome.faults == []
    assert outcome.n


def test_a_host_survives_connections_that_are_cut(host: Running) -> None:
    sound(part_cuts.on_a_socket(SHORT, host))


def test_a_host_holds_after_many_sessions_what_it_held_before(host: Running) -> None:
    sound(part_soak.soak(SHORT, host))


def test_scans_side_by_side_give_what_they_give_alone(host: Running) -> None:
    sound(part_concurrency.side_by_side(SHORT, host))


def test_idle_connections_keep_nobody_waiting(host: Running) -> None:
    sound(part_idle.idle(SHORT, host))


def test_a_client_that_does_not_read_holds_up_its_own_scan_alone(host: Running) -> None:
    sound(part_slow_readers.slow(SHORT, host))


def test_a_host_that_is_killed_has_recorded_what_it_said_and_leaves_no_process() -> None:
    (outcome,) = part_kills.run(SHORT)
    sound(outcome)
    assert outcome.figures["lines_compared"] > 0


@pytest.mark.slow
def test_kills_at_random_moments_lose_no_line_that_was_persisted() -> None:
    outcome = part_kills.kills(Effort(short=False), 20)  # the first of `make torture`'s hundred
    sound(outcome)
    assert outcome.n == 20


def test_every_part_is_printed_and_a_fault_is_a_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert available() == list(ORDER)
    outcome = Outcome(what="a thing", n=3)
    outcome.fault("it broke")
    monkeypatch.setattr("tests.torture.part_fuzz.run", lambda effort: iter([outcome]))
    assert main(["--short", "--only", "fuzz"]) == 1
    assert "== fuzz" in (said := capsys.readouterr().out)
    assert "1 FAULTS" in said
    assert "it broke" in said
