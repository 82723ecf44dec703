"""The training loop on networks of a few weights."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

from training.fit import checkpoint
from training.fit.loop import Fit, fit, read_log, schedule
from training.fit.party import Party


def network(n_in: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(n_in, 8), nn.SiLU(), nn.Dropout(0.3), nn.Linear(8, 1))


def two_parties() -> dict[str, Party]:
    torch.manual_seed(0)
    return {name: Party.adam(network(), 1e-2) for name in ("sampler", "reconstructor")}


def regression(parties: dict[str, Party]) -> Callable[[str, int, np.random.Generator], Tensor]:
    """Return a loss of random draws, in which each party meets the other's output."""

    def loss_of(name: str, step: int, rng: np.random.Generator) -> Tensor:
        x = torch.from_numpy(rng.normal(size=(4, 3))).float()
        outputs = {key: party.model(x) for key, party in parties.items()}
        other = sum(value.detach() for key, value in outputs.items() if key != name)
        return (outputs[name] + 0.3 * other - x.sum(1, keepdim=True)).square().mean()

    return loss_of


def alternating(step: int) -> str:
    return "sampler" if step % 3 == 2 else "reconstructor"


@pytest.fixture
def settings(tmp_path: Path) -> Fit:
    return Fit(run=tmp_path / "run", n_steps=14, batch=2, every=4, warm_up=3, turn=alternating)


def run(settings: Fit) -> dict[str, Tensor]:
    parties = two_parties()
    fit(parties, regression(parties), settings)
    return state(parties)


def state(parties: dict[str, Party]) -> dict[str, Tensor]:
    return {
        f"{name}.{kind}.{key}": value
        for name, party in parties.items()
        for kind in ("model", "average")
        for key, value in getattr(party, kind).state_dict().items()
    }


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Stopped(Exception):  # noqa: N818
    pass


def run_until(settings: Fit, last: int) -> None:
    """Run, and be stopped in the middle of a step."""
    parties = two_parties()
    loss_of = regression(parties)

    def stopping(name: str, step: int, rng: np.random.Generator) -> Tensor:
        if step == last:
            raise Stopped
        return loss_of(name, step, rng)

    with pytest.raises(Stopped):
        fit(parties, stopping, settings)


@pytest.mark.parametrize("last", [0, 3, 4, 6, 13])
def test_a_resumed_run_of_two_alternating_parties_equals_an_uninterrupted_one(
    settings, tmp_path, last
):
    whole = run(settings)
    stopped = replace(settings, run=tmp_path / "stopped")
    run_until(stopped, last)
    assert equal(run(stopped), whole)
    assert read_log(stopped.run) == read_log(settings.run)


def test_a_run_stopped_twice_equals_an_uninterrupted_one(settings, tmp_path):
    whole = run(settings)
    stopped = replace(settings, run=tmp_path / "stopped")
    run_until(stopped, 6)
    run_until(stopped, 11)
    assert equal(run(stopped), whole)


def test_a_run_follows_from_its_seed(settings, tmp_path):
    first = run(settings)
    assert equal(run(replace(settings, run=tmp_path / "again")), first)
    assert not equal(run(replace(settings, run=tmp_path / "other", seed=1)), first)


def test_only_the_party_whose_turn_it_is_moves(settings):
    parties = two_parties()
    before = {key: value.clone() for key, value in state(parties).items()}
    fit(parties, regression(parties), replace(settings, turn=lambda _: "sampler"))
    moved = {
        key.partition(".")[0]
        for key, value in state(parties).items()
        if not torch.equal(value, before[key])
    }
    assert moved == {"sampler"}


def test_the_log_has_an_entry_per_checkpoint_with_every_party_and_the_validation(settings):
    parties = two_parties()
    fit(parties, regression(parties), settings, lambda: {"nrmse": 0.25})
    entries = read_log(settings.run)
    assert [entry["step"] for entry in entries] == [4, 8, 12, 14]
    both = {"step", "loss_sampler", "loss_reconstructor", "nrmse"}
    # steps 12 and 13 are the reconstructor's
    assert [set(entry) for entry in entries] == [both, both, both, both - {"loss_sampler"}]
    assert all(entry["nrmse"] == 0.25 for entry in entries)


def test_entries_of_the_log_after_the_checkpoint_are_written_again(settings):
    run(settings)
    whole = read_log(settings.run)
    stopped = replace(settings, run=settings.run.with_name("stopped"))
    run_until(stopped, 6)
    with (stopped.run / "log.jsonl").open("a") as file:
        file.write(json.dumps({"step": 8, "loss_sampler": 99.0}) + "\n")
    run(stopped)
    assert read_log(stopped.run) == whole


def test_a_run_that_has_not_begun_has_an_empty_log(tmp_path):
    assert read_log(tmp_path / "nothing") == []


def test_a_finished_run_is_left_as_it_is(settings):
    first = run(settings)

    def never(name: str, step: int, rng: np.random.Generator) -> Tensor:
        raise AssertionError("a step was taken")

    parties = two_parties()
    fit(parties, never, settings)
    assert equal(state(parties), first)


def test_a_run_keeps_one_checkpoint_and_no_other_files(settings):
    run(settings)
    names = {path.name for path in settings.run.iterdir()}
    assert names == {"checkpoint.json", "checkpoint.14.safetensors", "log.jsonl"}


def test_a_run_stopped_while_it_writes_a_checkpoint_goes_on_from_the_one_before(
    settings, tmp_path, monkeypatch
):
    whole = run(settings)
    stopped = replace(settings, run=tmp_path / "stopped")
    run_until(stopped, 6)

    def fail(*_: object) -> None:
        raise Stopped

    monkeypatch.setattr(checkpoint.os, "replace", fail)
    parties = two_parties()
    with pytest.raises(Stopped):
        fit(parties, regression(parties), stopped)
    monkeypatch.undo()
    assert json.loads((stopped.run / "checkpoint.json").read_text())["step"] == 4
    assert equal(run(stopped), whole)


def one_party(n_in: int = 3, rate: float = 1e-2) -> Party:
    torch.manual_seed(0)
    return Party.adam(nn.Linear(n_in, 1), rate)


def test_a_checkpoint_of_another_network_is_an_error_that_says_so(settings):
    settings = replace(settings, turn=None)

    def loss_of(name: str, step: int, rng: np.random.Generator) -> Tensor:
        return party.model(torch.ones(1, 3)).sum()

    party = one_party()
    fit({"a": party}, loss_of, settings)
    for others in ({"a": one_party(4)}, {"b": one_party()}):
        with pytest.raises(ValueError, match=r"checkpoint\.json is of another network"):
            fit(others, loss_of, settings)


def test_a_step_whose_losses_are_not_finite_changes_nothing(settings):
    settings = replace(settings, turn=None)
    party = one_party()
    before = {key: value.clone() for key, value in state({"a": party}).items()}

    def bad(name: str, step: int, rng: np.random.Generator) -> Tensor:
        return party.model(torch.ones(1, 3)).sum() * (torch.nan if step % 2 else torch.inf)

    fit({"a": party}, bad, settings)
    assert equal(state({"a": party}), before)


def test_a_draw_whose_loss_is_not_finite_leaves_the_others_of_its_batch(settings, tmp_path):
    settings = replace(settings, turn=None)
    found = []
    for bad in (torch.nan, 0.0):  # a loss of zero has no gradient
        party = one_party()
        draws = iter(range(1000))

        def loss_of(
            name: str, step: int, rng: np.random.Generator, bad=bad, party=party, draws=draws
        ) -> Tensor:
            loss = (party.model(torch.ones(1, 3)).sum() - 3).square()
            return loss * bad if next(draws) % 2 else loss

        fit({"a": party}, loss_of, replace(settings, run=tmp_path / str(bad)))
        found.append(state({"a": party}))
    assert equal(*found)


def test_the_average_starts_at_the_weights_and_then_trails_them(settings):
    party = one_party()
    values, means = [], []

    def loss_of(name: str, step: int, rng: np.random.Generator) -> Tensor:
        values.append(party.model.bias.item())
        means.append(party.average.bias.item())
        return party.model(torch.ones(1, 3)).sum()

    fit({"a": party}, loss_of, replace(settings, turn=None, batch=1, decay=0.75))
    assert means[1] == pytest.approx(values[1])
    expected = values[1]
    for step in range(1, 13):
        expected += max(0.25, 1 / (step + 1)) * (values[step + 1] - expected)
        assert means[step + 1] == pytest.approx(expected)


def test_frozen_weights_do_not_move(settings):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    model.bias.requires_grad_(False)
    before = model.bias.clone()
    party = Party.adam(model, 1e-2)
    fit({"a": party}, lambda *_: model(torch.ones(1, 3)).sum(), replace(settings, turn=None))
    assert torch.equal(model.bias, before)
    assert torch.equal(party.average.bias, before)


def test_the_rate_warms_up_and_falls_to_zero_as_a_cosine(tmp_path):
    settings = Fit(run=tmp_path, n_steps=1000, warm_up=100)
    rates = [schedule(step, settings) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) < 1
    assert rates.index(max(rates)) == 99
    assert rates[500] == pytest.approx(0.5)
    assert rates[750] == pytest.approx((1 - math.sqrt(0.5)) / 2)
    assert rates[-1] < 1e-5


def test_the_rate_of_a_resumed_run_goes_on_where_it_was(settings):
    seen = []

    def run_with(party: Party, stop: int) -> None:
        def loss_of(name: str, step: int, rng: np.random.Generator) -> Tensor:
            if step == stop:
                raise Stopped
            seen.append((step, party.optimiser.param_groups[0]["lr"]))
            return party.model(torch.ones(1, 3)).sum()

        fit({"a": party}, loss_of, replace(settings, turn=None, batch=1))

    with pytest.raises(Stopped):
        run_with(one_party(rate=0.1), 6)
    run_with(one_party(rate=0.1), -1)
    assert len(seen) == 6 + 10
    for step, rate in seen:
        assert rate == pytest.approx(0.1 * schedule(step, settings))


# --- several processes


def data(step: int, rank: int) -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(10 * step + rank))


def of_rank(rank: int, n: int, folder: str) -> None:
    """Train as one of `n` processes on its own draws, and keep the weights."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=n
    )
    party = one_party()

    def loss_of(name: str, step: int, rng: np.random.Generator) -> Tensor:
        if step == 2 and rank == 1:
            return party.model(torch.full((1, 3), torch.nan)).sum()
        return (party.model(data(step, rank)) - 1).square().mean()

    fit({"a": party}, loss_of, Fit(run=Path(folder) / "run", n_steps=4, every=2, warm_up=1))
    checkpoint.save_file(party.model.state_dict(), f"{folder}/{rank}.safetensors")
    distributed.destroy_process_group()


def test_gradients_of_two_processes_are_averaged_as_those_of_one_batch_of_both(tmp_path):
    multiprocessing.spawn(of_rank, (2, str(tmp_path)), nprocs=2)
    party = one_party()
    ranks = iter([0, 1] * 4)

    def loss_of(name: str, step: int, rng: np.random.Generator) -> Tensor:
        rank = next(ranks)
        if step == 2 and rank == 1:
            return torch.tensor(torch.nan)
        return (party.model(data(step, rank)) - 1).square().mean()

    alone = Fit(run=tmp_path / "alone", n_steps=4, batch=2, every=2, warm_up=1)
    fit({"a": party}, loss_of, alone)
    first, second = (checkpoint.load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert equal(first, second)
    torch.testing.assert_close(first, dict(party.model.state_dict()), rtol=1e-5, atol=1e-6)
    assert not torch.equal(party.model.weight, one_party().model.weight)
    assert [entry["step"] for entry in read_log(tmp_path / "run")] == [2, 4]
