import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnet.masks import densities
from mnet.masks.family import FAMILY, family
from mnet.masks.line_plan import LinePlan
from mnet.masks.patterns import Pattern
from mnet.sampler.features import features
from mnet.sampler.mnet import BatchedBodies, Body, mask_of
from mnet.sampler.mnet_select import SCALE, MNetSelect, swap, swap_table
from mnet.weight_files import load_weights, save_weights
from tests.mnet.helpers.small_problems import coils, make_plan

N = len(FAMILY)


def slices(plan: LinePlan, n: int = 2, n_x: int = 40, seed: int = 0) -> torch.Tensor:
    """Features of slices that differ: noise whose width along x and ky is another in each."""
    generator = torch.Generator().manual_seed(seed)
    n_lines = int(plan.calibration.sum())
    block = torch.randn((n, 5, n_x, n_lines), dtype=torch.complex64, generator=generator)
    width = torch.linspace(0.1, 1, n)[:, None, None, None]
    x = torch.linspace(-1, 1, n_x)[:, None]
    y = torch.linspace(-1, 1, n_lines)
    return features(block * torch.exp(-(x**2 + y**2) / width))


def patterns(n: int = 3) -> list[dict]:
    plan = make_plan(128)
    rng = np.random.default_rng(0)
    return [Pattern.of(densities.uniform_random(plan, rng), plan).to_json() for _ in range(n)]


def scrambled(strength: float = 2.0, n_patterns: int = 3, **config) -> MNetSelect:
    """Make a sampler whose choices and values depend on the slice."""
    torch.manual_seed(0)
    model = MNetSelect(patterns(n_patterns), n_channels=4, n_embedding=8, **config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for body in model.bodies:
            body.embed[3].weight.normal_(std=2.0, generator=generator)
        for layer in model.choose:
            layer.weight.normal_(std=strength / SCALE, generator=generator)
        for head in model.value:
            head.out.weight.normal_(std=5.0, generator=generator)
    return model.eval().requires_grad_(False)


def of_table(losses: dict[float, list[float]], **config) -> MNetSelect:
    table = {"acceleration": list(losses), "loss": list(losses.values())}
    return MNetSelect(table=table, n_channels=4, n_embedding=8, **config).eval()


def promising(model: MNetSelect, outputs: dict[int, float]) -> MNetSelect:
    """Let the network say the same of every slice: `outputs` by mask, as relative losses."""
    with torch.no_grad():
        for layer in model.choose:
            for mask, loss in outputs.items():
                layer.bias[mask] = loss / SCALE
    return model


def chosen(
    model: MNetSelect, z: torch.Tensor, plan: LinePlan, n_coils: int = 5
) -> list[np.ndarray]:
    with torch.no_grad():
        return [mask_of(row, plan) for row in model(z, plan, coils(n_coils))]


def is_vetted(mask: np.ndarray, model: MNetSelect, plan: LinePlan) -> bool:
    return any(np.array_equal(mask, vetted) for vetted in model.vetted_masks(plan))


def test_as_initialised_every_slice_gets_the_best_fixed_mask():
    plan = make_plan(128)
    for model in (MNetSelect(), MNetSelect(patterns())):
        for mask in chosen(model.eval(), slices(plan, 4), plan):
            assert np.array_equal(mask, model.population(plan))


def test_with_an_infinite_margin_every_slice_gets_the_best_fixed_mask():
    plan = make_plan(128)
    model = scrambled(margin=float("inf"))
    for mask in chosen(model, slices(plan, 6), plan):
        assert np.array_equal(mask, model.population(plan))


def test_slices_that_differ_get_masks_that_differ():
    plan = make_plan(128)
    found = chosen(scrambled(), slices(plan, 6), plan)
    assert len({mask.tobytes() for mask in found}) > 1


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(48, 400),
    acceleration=st.floats(1.5, 8.0),
    padded=st.integers(0, 6),
    n_x=st.integers(8, 90),
    n_coils=st.integers(1, 32),
    n_swaps=st.sampled_from([0, 1, 5, 1000]),
)
def test_any_size_coil_count_and_acceleration_gives_an_exact_mask_a_vetted_one_without_swaps(
    n, acceleration, padded, n_x, n_coils, n_swaps
):
    plan = make_plan(n, acceleration, padded)
    model = scrambled(n_swaps=n_swaps)
    for mask in chosen(model, slices(plan, 2, n_x), plan, n_coils):
        assert mask.shape == (n,)
        assert mask.sum() == plan.n_lines
        assert np.all(mask[plan.calibration])
        assert not np.any(mask & ~plan.acquirable)
        assert n_swaps > 0 or is_vetted(mask, model, plan)


def test_the_vetted_masks_are_the_family_and_the_patterns_realised_for_the_plan():
    plan = make_plan(120, 5.0, padded=3)
    model = MNetSelect(patterns())
    expected = [
        *family(plan),
        *(Pattern.from_json(pattern).realise(plan) for pattern in patterns()),
    ]
    assert len(model.vetted_masks(plan)) == N + 3
    assert all(map(np.array_equal, model.vetted_masks(plan), expected))


def test_a_pattern_can_be_chosen_and_be_the_best_fixed_mask():
    losses = [0.1] * N + [0.0, 0.2]
    plan = make_plan(128)
    model = of_table({4.0: losses}, patterns=patterns(2))
    assert np.array_equal(model.population(plan), model.vetted_masks(plan)[N])
    (mask,) = chosen(promising(model, {N + 1: -0.5}), slices(plan, 1), plan)
    assert np.array_equal(mask, model.vetted_masks(plan)[N + 1])


@pytest.mark.parametrize("scale", [1e-5, 1e4])
@pytest.mark.parametrize("n_swaps", [0, 4])
def test_masks_do_not_depend_on_the_scale_of_the_lines(scale, n_swaps):
    plan = make_plan(128)
    model = scrambled(n_swaps=n_swaps)
    z = slices(plan, 6)
    with torch.no_grad():
        torch.testing.assert_close(
            model.relative_losses(z * scale, plan, coils()),
            model.relative_losses(z, plan, coils()),
            rtol=1e-2,
            atol=1e-2,
        )
    assert all(map(np.array_equal, chosen(model, z * scale, plan), chosen(model, z, plan)))


@pytest.mark.parametrize("n_swaps", [0, 4])
def test_a_slice_s_mask_does_not_depend_on_its_batch(n_swaps):
    plan = make_plan(128)
    model = scrambled(n_swaps=n_swaps)
    z = slices(plan, 6)
    together = chosen(model, z, plan)
    assert len({mask.tobytes() for mask in together}) > 1
    for i, mask in enumerate(together):
        (alone,) = chosen(model, z[i : i + 1], plan)
        assert np.array_equal(alone, mask)


@pytest.mark.parametrize(("gain", "leaves"), [(0.019, False), (0.021, True)])
def test_a_mask_must_promise_more_than_the_margin_to_leave_the_best_fixed_one(gain, leaves):
    # member 0 is best on average; the network says that member 4, worse by 0.03, gains here
    losses = [0.0, 0.1, 0.1, 0.1, 0.03] + [0.1] * (N - 5)
    plan = make_plan(128)
    model = promising(of_table({4.0: losses}, margin=0.02), {4: -0.03 - gain})
    (mask,) = chosen(model, slices(plan, 1), plan)
    assert np.array_equal(mask, model.vetted_masks(plan)[4 if leaves else 0])


def test_members_vote_by_the_mean_of_what_they_predict():
    plan = make_plan(128)
    losses = [0.0, 0.1, 0.1] + [0.5] * (N - 3)
    model = of_table({4.0: losses}, n_members=2)
    with torch.no_grad():
        model.choose[0].bias[1] = -0.3 / SCALE  # alone: mask 1, at -0.2
        model.choose[1].bias[1] = 0.2 / SCALE
        model.choose[1].bias[2] = -0.25 / SCALE  # alone: mask 2, at -0.15
    predicted = model.relative_losses(slices(plan, 1), plan, coils())
    assert predicted.shape == (2, 1, N)
    torch.testing.assert_close(predicted[:, 0, 1], torch.tensor([-0.2, 0.3]))
    assert model.choice(slices(plan, 1), plan, coils()).tolist() == [2]  # 0.05, and -0.025


def test_the_table_is_interpolated_in_the_acceleration():
    low, high = [1.0] * N, [1.0] * N
    low[3], high[3] = 0.1, 0.5  # member 3 is best in between, 5 only at the far end
    low[5], high[5] = 0.9, 0.0
    model = of_table({2.0: low, 4.0: high})
    plan = make_plan(96, 3.0)
    np.testing.assert_allclose(model.mean_losses(plan)[[3, 5]], [0.3, 0.45])
    assert np.array_equal(model.population(plan), family(plan)[3])
    assert np.array_equal(model.population(make_plan(96, 4.0)), family(make_plan(96, 4.0))[5])
    # beyond what is known the nearest counts
    np.testing.assert_allclose(model.mean_losses(make_plan(96, 8.0)), high)
    np.testing.assert_allclose(model.mean_losses(make_plan(96, 1.5)), low)


def test_kinds_of_coils_may_have_a_best_fixed_mask_of_their_own():
    strata = [
        {"acceleration": 4.0, "channels": "single", "mask": 7},
        {"acceleration": 8.0, "channels": "many", "mask": 6},
    ]
    model = of_table({4.0: [0.1] * N, 8.0: [0.1] * N}, fixed=[3, 5], fixed_of=strata, margin=np.inf)
    near, far = make_plan(160), make_plan(160, 8.0)
    wanted = {(4.0, 1): 7, (4.0, 5): 3, (4.0, 16): 3, (8.0, 1): 5, (8.0, 5): 5, (8.0, 16): 6}
    for (acceleration, n_coils), member in wanted.items():
        plan = near if acceleration == 4.0 else far
        z = slices(plan)
        for mask in (*chosen(model, z, plan, n_coils), *model.fallback(z, plan, coils(n_coils))):
            assert np.array_equal(mask, family(plan)[member]), (acceleration, n_coils)
    assert np.array_equal(model.population(near), family(near)[3])  # of coils nothing is known
    ((_, words), _) = model.decide(slices(near), near, coils(1))
    assert words.startswith("best fixed mask, 7")


def test_what_a_mask_promises_counts_against_the_best_fixed_one_of_its_stratum():
    single = {"acceleration": 4.0, "channels": "single", "mask": 7}
    model = of_table({4.0: [0.1] * N}, fixed=[3], fixed_of=[single], margin=0.02)
    promising(model, {3: -0.05, 7: -0.065, 8: -0.08})  # 8 is 3 % better than 3, 1.5 % than 7
    plan = make_plan(160)
    assert model.choice(slices(plan, 1), plan, coils(5)).tolist() == [8]
    assert model.choice(slices(plan, 1), plan, coils(1)).tolist() == [7]


def test_the_population_mask_is_the_caller_s_own():
    plan = make_plan(96)
    model = MNetSelect()
    model.population(plan)[:] = False
    assert model.population(plan).sum() == plan.n_lines


@pytest.mark.parametrize("width", [N - 1, N, N + 2])
def test_a_table_of_another_width_than_the_masks_is_refused(width):
    table = {"acceleration": [4.0], "loss": [[0.1] * width]}
    with pytest.raises(ValueError, match=f"must have {N + 1} columns"):
        MNetSelect(patterns(1), table)


def test_features_of_other_lines_than_the_plan_s_are_refused():
    plan = make_plan(96)
    with pytest.raises(ValueError, match="calibration lines"):
        scrambled()(slices(plan)[..., :-1], plan, coils())


def test_a_silent_slice_gets_a_mask():
    plan = make_plan(96)
    assert chosen(scrambled(n_swaps=3), slices(plan) * 0, plan)[0].sum() == plan.n_lines


@pytest.mark.parametrize("n_swaps", [0, 4])
def test_the_two_files_alone_choose_the_same(n_swaps, tmp_path):
    model = scrambled(n_members=2, margin=0.01, n_swaps=n_swaps)
    save_weights(model, tmp_path / "select", {})
    loaded, _ = load_weights(str(tmp_path / "select"))
    assert isinstance(loaded, MNetSelect)
    for plan in (make_plan(128), make_plan(101, 6.0, padded=2)):
        z = slices(plan, 6)
        first = chosen(model, z, plan)
        assert len({mask.tobytes() for mask in first}) > 1
        assert all(map(np.array_equal, chosen(loaded, z, plan), first))


def test_both_what_masks_and_what_rows_are_worth_teach_the_body():
    plan = make_plan(128)
    z, mask = slices(plan), family(plan)[0]
    model = scrambled().requires_grad_()
    for values in (
        model.relative_losses(z, plan, coils())[0, 0, 0],
        model.line_values(z, plan, coils(), mask)[0, 0, 3],
    ):
        model.zero_grad()
        values.backward()
        assert all(p.grad is not None and p.grad.any() for p in model.bodies.parameters())


# --- swaps


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(48, 200),
    acceleration=st.floats(1.0, 8.0),
    padded=st.integers(0, 6),
    n_swaps=st.integers(0, 60),
    seed=st.integers(0, 2**31),
)
def test_swaps_keep_budget_and_calibration_and_each_of_them_gains(
    n, acceleration, padded, n_swaps, seed
):
    plan = make_plan(n, acceleration, padded)
    rng = np.random.default_rng(seed)
    mask, values = densities.uniform_random(plan, rng), rng.normal(size=n)
    before = mask.copy()
    swapped = swap(mask, plan, values, n_swaps)
    assert np.array_equal(mask, before)
    assert swapped.sum() == plan.n_lines
    assert np.all(swapped[plan.calibration])
    assert not np.any(swapped & ~plan.acquirable)
    out, into = np.sort(values[mask & ~swapped]), np.sort(values[swapped & ~mask])[::-1]
    assert out.size == into.size <= n_swaps
    assert np.all(into > out)


def test_unlimited_swaps_end_at_the_most_valued_rows():
    plan = make_plan(96)
    rng = np.random.default_rng(0)
    values = rng.normal(size=96)
    movable = np.flatnonzero(plan.movable)
    best = movable[np.argsort(-values[movable])][: plan.n_movable]
    swapped = swap(densities.uniform_random(plan, rng), plan, values, 96)
    assert np.array_equal(swapped, plan.mask(best))


def test_a_mask_of_the_most_valued_rows_is_left_alone():
    plan = make_plan(96)
    mask = family(plan)[2]
    values = mask.astype(float)
    assert np.array_equal(swap(mask, plan, values, 10), mask)
    assert np.array_equal(swap(mask, plan, np.zeros(96), 10), mask)  # a tie is no gain


def test_one_swap_moves_the_worst_line_to_the_best_free_row():
    plan = make_plan(96)
    mask = low = densities.low_pass(plan)
    values = np.zeros(96)
    worst = int(np.flatnonzero(low & plan.movable)[3])
    values[worst], values[90] = -1.0, 1.0
    swapped = swap(mask, plan, values, 1)
    assert np.flatnonzero(mask & ~swapped).tolist() == [worst]
    assert np.flatnonzero(swapped & ~mask).tolist() == [90]


def test_a_sampler_with_swaps_makes_those_that_its_values_say():
    plan = make_plan(128)
    z = slices(plan, 6)
    fixed, swapping = scrambled(n_swaps=0), scrambled(n_swaps=2)
    moved = 0
    for i, (before, after) in enumerate(
        zip(chosen(fixed, z, plan), chosen(swapping, z, plan), strict=True)
    ):
        values = swapping.line_values(z[i : i + 1], plan, coils(), before)[0, 0].numpy()
        assert np.array_equal(after, swap(before, plan, values, 2))
        moved += int((before & ~after).sum())
    assert moved > 0


def test_rows_are_described_beside_the_mask_and_its_mirror_image():
    plan = make_plan(96)
    mask = densities.uniform_random(plan, np.random.default_rng(0))
    taken, mirrored = swap_table(plan, mask)[:2]
    assert np.array_equal(taken > 0, mask)
    assert set(taken.tolist()) == {-1.0, 1.0}
    for row in range(1, 96):
        assert (mirrored[row] > 0) == mask[96 - row]  # k = 0 is row 48


@pytest.mark.parametrize("n_channels", [0, 4])
def test_all_members_at_once_say_what_each_says_alone(n_channels: int) -> None:
    torch.manual_seed(0)
    plan = make_plan()
    bodies = [Body(n_channels, 16).eval() for _ in range(3)]
    for body in bodies:
        torch.nn.init.normal_(body.shift)
        torch.nn.init.uniform_(body.spread, 0.5, 2)
    inputs = bodies[0].inputs(slices(plan, 2), plan, coils())
    alone = torch.stack([body.embedding(*inputs) for body in bodies])
    torch.testing.assert_close(BatchedBodies(bodies)(*inputs), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("margin", "words"),
    [
        (0.02, "mask 1 promises 3.0 % less loss than the best fixed mask, 0; margin 2 %"),
        (0.05, "best fixed mask, 0: mask 1 promises 3.0 % less loss, under the margin of 5 %"),
        (1e9, "best fixed mask, 0: for such scans no choice was surely better"),
    ],
)
def test_a_choice_is_told_with_what_it_promises_and_the_margin(margin: float, words: str):
    plan = make_plan(128)
    model = promising(of_table({4.0: [0.0] + [0.5] * (N - 1)}, margin=margin), {1: -0.53})
    with torch.no_grad():
        assert [told for _, told in model.decide(slices(plan), plan, coils(5))] == [words] * 2
    (fixed, best), masks = model.vetted_masks(plan)[:2], chosen(model, slices(plan), plan)
    assert all(np.array_equal(mask, best if margin == 0.02 else fixed) for mask in masks)


def test_a_fixed_mask_that_promises_most_is_told_as_such():
    plan = make_plan(128)
    model = of_table({4.0: [0.0] + [0.5] * (N - 1)}, margin=0.02)
    with torch.no_grad():
        told = [words for _, words in model.decide(slices(plan), plan, coils(5))]
    assert told == ["best fixed mask, 0, which promises most"] * 2


def test_what_is_kept_of_the_weights_goes_when_they_change() -> None:
    torch.manual_seed(0)
    plan = make_plan()
    model = MNetSelect(n_channels=0, n_embedding=8, n_members=2).requires_grad_(False).eval()
    other = MNetSelect(n_channels=0, n_embedding=8, n_members=2)
    for layer in other.choose:
        torch.nn.init.normal_(layer.weight)
    seen = slices(plan, 2), plan, coils()
    before = model.relative_losses(*seen)
    assert model._batched() is model._batched()
    model.load_state_dict(other.state_dict())
    expected = other.eval().relative_losses(*seen)
    assert not torch.allclose(before, expected)
    torch.testing.assert_close(model.relative_losses(*seen), expected)
