import copy
import json

import numpy as np
import pytest
import torch

from mnet.masks.line_plan import LinePlan
from mnet.sampler.experts import MNetExperts
from mnet.sampler.features import coil_features, features
from mnet.sampler.guard import EMPTY, UNLIKE, Guard
from mnet.sampler.guard_numbers import ALIASES, NAMES, guard_numbers
from mnet.weight_files import WeightsError, load_weights, save_weights
from tests.training.helpers.generated import cohort, volumes
from training.data.corpus import draw
from training.guard.cases import fold_over, noise_only, partial_echo
from training.guard.looks import look

WIDE = {  # of ordinary slices far from its limit, and of all others
    "centre": [0.0] * len(NAMES),
    "scale": [1.0] * len(NAMES),
    "whiten": [[0.0] * i + [1.0] for i in range(len(NAMES))],
    "limit": 100.0,
}
JSON = {
    "checks": [
        {"reason": "noise only", "weights": {"noise": 1.0, "decay": -1.0}, "limit": -0.5},
        {"reason": "partial echo", "weights": {"echo": -1.0}, "limit": 1.2},
    ],
    "envelopes": {"few": WIDE, "many": WIDE},
}


@pytest.fixture(scope="module")
def scans():
    """Sixteen ordinary scans of several coils."""
    described = cohort(n=60, seed=5, share=0.0, largest=140)
    drawn = (draw(volumes(), described, number) for number in range(described.n))
    return [s for s in drawn if not s.folded and len(s.kspace) > 1][:16]


def number(scan, name):
    return look(scan, scan.plan())[NAMES.index(name)]


def seen(scan, factor=1.0):
    plan = scan.plan()
    lines = factor * scan.kspace[None][..., torch.from_numpy(plan.calibration)]
    return features(lines), plan, coil_features(lines)


@pytest.mark.slow
def test_numbers_are_finite_near_one_and_the_same_in_every_unit(scans):
    for scan in scans:
        found = guard_numbers(*seen(scan))
        assert found.shape == (len(NAMES),)
        assert np.abs(found).max() < 12  # rows as a power of two are the largest
        for factor in (1e-6, 1e6):
            # single precision, whose noise in quiet corners is a few thousandths of a power of ten
            np.testing.assert_allclose(guard_numbers(*seen(scan, factor)), found, atol=0.02)


def test_numbers_of_aliases_are_those_of_the_coil_features(scans):
    z, plan, coils = seen(scans[0])
    found = guard_numbers(z, plan, coils)
    for j, r in ALIASES:
        at = NAMES.index(f"alike {j}/{r}")
        # more shifts are told by coil_features, and the half of the field of view comes first
        assert found[at] in coils[0].tolist()
        assert found[at + 1] in coils[0].tolist()
    assert found[NAMES.index("alike 1/2")] == coils[0, 1]


def test_noise_has_as_much_energy_in_every_line_and_no_brightness_but_its_own(scans):
    rng = np.random.default_rng(0)
    for scan in scans:
        noise = noise_only(scan, rng)
        # of 60 and more positions and two and more coils: 0.04 is one standard deviation
        assert number(noise, "decay") < 0.2
        # few pixels of it count as object, which makes it a little brighter than it is
        assert -0.5 < number(noise, "noise") < 0.3
        assert number(scan, "noise") < -0.6  # the loudest that is drawn is a fifth


def test_a_partial_echo_is_seen_at_either_end_of_the_readout(scans):
    # the crop of the oversampling leaves a thousandth of the energy where nothing was measured,
    # and noise is in both ends
    cut = [
        number(partial_echo(scan, np.random.default_rng(seed)), "echo")
        for seed, scan in enumerate(scans)
    ]
    assert max(cut) < min(number(scan, "echo") for scan in scans) - 0.2


def test_what_overflows_the_field_of_view_is_bright_at_both_edges(scans):
    changes = []
    for seed, scan in enumerate(scans):
        folded = fold_over(scan, np.random.default_rng(seed))
        if folded is not None:
            changes.append(number(folded, "edges") - number(scan, "edges"))
    assert len(changes) > 1
    assert min(changes) > 0.2


def test_a_guard_says_what_is_odd_and_nothing_of_the_others(scans):
    guard, rng = Guard.from_json(JSON), np.random.default_rng(1)
    for scan in scans:
        assert guard.verdict(*seen(scan)) == ""
        assert guard.verdict(*seen(noise_only(scan, rng))) == "noise only"
        assert guard.verdict(*seen(partial_echo(scan, rng))) == "partial echo"
        assert guard.verdict(*seen(scan, 0.0)) == EMPTY


def test_the_envelope_is_a_distance_in_standardised_numbers(scans):
    content = copy.deepcopy(JSON)
    numbers = guard_numbers(*seen(scans[0]))
    at = {"centre": numbers.tolist(), "scale": [0.5] * len(NAMES), "limit": 3.0}
    content["envelopes"] = {"many": {**WIDE, **at}}
    guard = Guard.from_json(content)
    for away, verdict in ((1.4, ""), (1.6, UNLIKE)):  # 2.8 and 3.2 standard deviations
        moved = numbers.copy()
        moved[NAMES.index("support")] += away
        assert guard.judge(moved, 8) == verdict


def test_channels_that_were_not_learned_from_are_said_so(scans):
    numbers = guard_numbers(*seen(scans[0]))
    assert Guard.from_json(JSON).judge(numbers, 1) == f"{UNLIKE}: one channel"
    few = Guard.from_json({**JSON, "envelopes": {"single": WIDE}})
    assert few.judge(numbers, 16) == f"{UNLIKE}: 16 channels"


def test_a_guard_comes_back_from_its_card_as_it_was(scans):
    guard = Guard.from_json(JSON)
    content = json.loads(json.dumps(guard.to_json()))
    assert content == JSON
    assert Guard.from_json({**content, "made": {"n_scans": 3}}).to_json() == JSON


def malformed(**changes):
    return {**copy.deepcopy(JSON), **changes}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "a guard is list"),
        ({"checks": []}, r"a guard has \['checks'\], expected \['checks', 'envelopes'\]"),
        (malformed(more=1), "expected"),
        (malformed(envelopes={}), r"envelopes of a guard: expected some of \['few'"),
        (malformed(envelopes={"eight": WIDE}), "expected some of"),
        (malformed(checks={}), "checks of a guard: expected a list"),
        (malformed(checks=[{"reason": "x", "weights": {"decay": 1}}]), "a check of a guard has"),
        (
            malformed(checks=[{"reason": "", "weights": {"decay": 1}, "limit": 1}]),
            "expected words",
        ),
        (
            malformed(checks=[{"reason": "x", "weights": {"mood": 1}, "limit": 1}]),
            "check 'x' weighs .* expected some of",
        ),
        (
            malformed(checks=[{"reason": "x", "weights": {"decay": "1"}, "limit": 1}]),
            "weights of check 'x' of a guard: expected 1 numbers",
        ),
        (
            malformed(checks=[{"reason": "x", "weights": {"decay": 1}, "limit": float("nan")}]),
            "limit of check 'x' of a guard: expected 1 finite numbers",
        ),
        (malformed(envelopes={"few": {**WIDE, "scale": [0.0] * len(NAMES)}}), "above 0"),
        (malformed(envelopes={"few": {**WIDE, "centre": [0.0]}}), "expected 23 finite numbers"),
        (malformed(envelopes={"few": {**WIDE, "whiten": [[1.0]]}}), "expected 23 rows"),
        (
            malformed(envelopes={"few": {**WIDE, "whiten": [[1.0, 2.0]] * len(NAMES)}}),
            "row 0 of whiten",
        ),
    ],
)
def test_a_malformed_guard_is_an_error_when_the_sampler_is_loaded(content, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        Guard.from_json(content)
    save_weights(MNetExperts(), tmp_path / "odd", {"guard": content})
    with pytest.raises(WeightsError, match=rf"odd\.json: .*{words}"):
        load_weights(str(tmp_path / "odd"))


def test_a_card_without_a_guard_loads_as_before(tmp_path):
    save_weights(MNetExperts(), tmp_path / "plain", {})
    assert "guard" not in load_weights(str(tmp_path / "plain"))[1]


def test_a_plan_of_two_lines_has_numbers_too():
    plan = LinePlan.of(np.ones(8, dtype=bool), 2.0)
    assert plan.calibration.sum() == 2
    generator = torch.Generator().manual_seed(0)
    lines = torch.randn(1, 1, 15, 2, dtype=torch.complex64, generator=generator)
    assert np.isfinite(guard_numbers(features(lines), plan, coil_features(lines))).all()
