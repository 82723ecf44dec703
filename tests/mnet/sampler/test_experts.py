import json

import numpy as np
import pytest
import torch

from mnet.masks.family import FAMILY, family
from mnet.masks.line_plan import LinePlan
from mnet.masks.patterns import Pattern
from mnet.recon.conditions import conditions
from mnet.sampler.experts import MNetExperts, nodes, path_of
from mnet.sampler.features import coil_features, features
from mnet.sampler.mnet import mask_of
from mnet.sampler.prescan import NAMES, prescan_numbers
from mnet.weight_files import load_weights, save_weights
from tests.training.helpers.generated import cohort, volumes
from training.data.corpus import draw

PLAN = LinePlan.of(np.ones(96, dtype=bool), 4.0)
LEARNED = family(PLAN)[3]
PATTERNS = [{"name": "few channels, 4x", "pattern": Pattern.of(LEARNED, PLAN).to_json()}]
TREE = {
    "expert": 1,
    "fallback": 2,
    "feature": "channels",
    "threshold": 7.5,
    "below": {
        "expert": 4,
        "fallback": 2,
        "feature": "noise",
        "threshold": 0.02,
        "below": {"expert": len(FAMILY), "fallback": 2},
        "above": {"expert": 5, "fallback": 5},
    },
    "above": {"expert": 6, "fallback": 3},
}


def model(**changes):
    trees = [
        {"acceleration": 4.0, "tree": TREE},
        {"acceleration": 8.0, "tree": {"expert": 7, "fallback": 8}},
    ]
    return MNetExperts(PATTERNS, changes.get("trees", trees))


def slices(n_coils=4, plan=PLAN, noise=0.0, n=2, seed=0):
    """Return features of a smooth object behind plain coils, with noise relative to it."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(-1, 1, 80), np.linspace(-1, 1, plan.acquirable.size))
    radius = np.sqrt((x / 0.7) ** 2 + (y / 0.6) ** 2)
    image = 1 / (1 + np.exp(20 * (radius.T - 1)))  # smooth, so that the ends of lines are noise
    coils = np.exp(1j * np.linspace(0, 1, n_coils))[:, None, None] * np.ones_like(image)
    data = np.stack([image * coils] * n)
    data = data + noise * (rng.normal(size=data.shape) + 1j * rng.normal(size=data.shape)) / 2**0.5
    axes = {"axes": (-1,)}
    kspace = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(data, **axes), norm="ortho"), **axes)
    lines = torch.from_numpy(kspace[..., plan.calibration].astype(np.complex64))
    return features(lines), coil_features(lines)


@pytest.mark.parametrize(
    ("n_coils", "noise", "expert", "told"),
    [
        (4, 0.001, len(FAMILY), f"expert {len(FAMILY)}, few channels, low noise"),
        (4, 0.1, 5, "fallback 5, few channels, high noise"),
        (8, 0.001, 6, "expert 6, many channels"),
    ],
)
def test_a_slice_gets_the_expert_of_its_leaf_and_is_told_why(n_coils, noise, expert, told):
    sampler = model()
    z, coils = slices(n_coils, noise=noise)
    assert sampler.choice(z, PLAN, coils).tolist() == [expert] * 2
    assert [words for _, words in sampler.decide(z, PLAN, coils)] == [told] * 2
    logits = sampler(z, PLAN, coils)
    for row in logits:
        assert np.array_equal(mask_of(row, PLAN), sampler.vetted_masks(PLAN)[expert])


def test_every_stratum_falls_back_to_its_own_mask():
    sampler = model()
    for n_coils, fallback in ((4, 2), (8, 3)):
        z, coils = slices(n_coils, noise=0.001)
        for mask in sampler.fallback(z, PLAN, coils):
            assert np.array_equal(mask, sampler.vetted_masks(PLAN)[fallback])
    assert np.array_equal(sampler.population(PLAN), sampler.vetted_masks(PLAN)[2])


@pytest.mark.parametrize(("acceleration", "fallback"), [(3.0, 2), (5.0, 2), (6.0, 8), (8.0, 8)])
def test_a_plan_has_the_tree_of_the_nearest_acceleration(acceleration, fallback):
    plan = LinePlan.of(np.ones(240, dtype=bool), acceleration)
    sampler = model()
    assert np.array_equal(sampler.population(plan), sampler.vetted_masks(plan)[fallback])


def test_what_is_not_finite_is_an_error_and_no_mask():
    z, coils = slices()
    with pytest.raises(ValueError, match="not finite"):
        model()(z * torch.nan, PLAN, coils)


def test_a_tree_that_names_no_mask_or_an_unknown_number_is_refused():
    bad = {"acceleration": 4.0, "tree": {"expert": 99, "fallback": 0}}
    with pytest.raises(ValueError, match="99 and 0, expected 0 to 14"):
        model(trees=[bad])
    asks = TREE | {"feature": "weather"}
    with pytest.raises(ValueError, match="weather"):
        model(trees=[{"acceleration": 4.0, "tree": asks}])


def test_the_card_alone_rebuilds_the_sampler(tmp_path):
    save_weights(model(), tmp_path / "experts", {})
    found, card = load_weights(str(tmp_path / "experts"))
    assert card["architecture"]["config"]["trees"][0]["tree"] == TREE
    z, coils = slices(noise=0.001)
    assert torch.equal(found(z, PLAN, coils), model()(z, PLAN, coils))
    assert json.dumps(found.config)


def test_without_trees_it_is_one_member_of_the_family():
    sampler = MNetExperts()
    z, coils = slices()
    assert np.array_equal(mask_of(sampler(z, PLAN, coils)[0], PLAN), sampler.population(PLAN))


def test_a_path_ends_in_a_leaf_and_every_node_is_given():
    assert len(list(nodes(TREE))) == 5
    numbers = [0.0] * len(NAMES)
    assert path_of(TREE, numbers)[-1] == TREE["below"]["below"]


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_no_number_follows_the_scale_of_a_scan(scale):
    z, _ = slices(4, noise=0.05)
    coils = slices(4, noise=0.05)[1]
    expected = prescan_numbers(z, PLAN, coils)
    torch.testing.assert_close(prescan_numbers(z * scale, PLAN, coils), expected, rtol=1e-3, atol=0)


def test_numbers_are_what_their_names_say():
    z, coils = slices(4, noise=0.01, n=1)
    told = dict(zip(NAMES, prescan_numbers(z, PLAN, coils)[0].tolist(), strict=True))
    assert told["rows"] == 96
    assert told["acceleration"] == pytest.approx(4.0)
    assert told["calibration"] == pytest.approx(12 / 24)
    assert told["channels"] == 4
    assert told["effective coils"] == pytest.approx(1, abs=0.05)  # all see the same
    # an object of 60 % of the field of view, seen at 12 lines: one pixel of 1 / 12 at each edge
    assert told["support"] == pytest.approx(0.6, abs=2 / 12)
    # of a pixel whose brightness is the root of the sum over coils, 2
    assert told["noise"] == pytest.approx(0.01 / 2, rel=0.3)


def test_noise_and_coils_of_simulated_scans_are_those_that_modl_is_told():
    anatomy = volumes()
    ours, theirs = [], []
    for number in range(24):
        sample = draw(anatomy, cohort(n=24, seed=3, accelerations=(4.0,)), number)
        plan = sample.plan()
        lines = sample.kspace[None, ..., torch.from_numpy(plan.calibration)]
        numbers = prescan_numbers(features(lines), plan, coil_features(lines))[0]
        mask = torch.from_numpy(family(plan)[2]).float()[None]
        told = conditions(sample.kspace[None], sample.csm[None], mask)[0]
        ours.append([float(numbers[NAMES.index("noise")].log())])
        theirs.append([float(told[0])])
    found = np.corrcoef(np.array(ours)[:, 0], np.array(theirs)[:, 0])[0, 1]
    assert found > 0.8  # of a scan whose noise nobody measured, both are estimates
