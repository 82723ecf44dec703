"""Where lines come to lie in trains: every line once, k = 0 where it shall be, no jumps."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mnet.masks.densities import variable_density
from mnet.masks.line_plan import Bool, LinePlan
from mnet.sequence.echo_order import IDLE, RULES, EchoOrder, default_rule


def plan_of(n: int, acceleration: float, train: int, cut: int = 0) -> LinePlan:
    return LinePlan.of(np.arange(n) >= cut, acceleration, group_size=train)


def mask_of(plan: LinePlan, seed: int = 0) -> Bool:
    return variable_density(plan, np.random.default_rng(seed))


def echoes_of(shots: np.ndarray, n: int) -> np.ndarray:
    """Independent of the code under test: the echo (n,) of every row, 0 where not measured."""
    echoes = np.zeros(n, dtype=int)
    for shot in shots:
        for echo, row in enumerate(shot, 1):
            if row != IDLE:
                echoes[row] = echo
    return echoes


@settings(deadline=None)  # the claim is of lines, not of time
@given(
    rule=st.sampled_from(RULES),
    n=st.integers(40, 300),
    acceleration=st.floats(1.0, 6.0),
    train=st.integers(1, 24),
    cut=st.integers(0, 15),
    data=st.data(),
)
def test_every_line_is_measured_once_and_whole_trains_have_no_idle_echo(
    rule, n, acceleration, train, cut, data
) -> None:
    assume((n - cut) // acceleration >= max(train, 2))
    plan = plan_of(n, acceleration, train, cut)
    effective = data.draw(st.none() | st.integers(1, train))
    order, mask = EchoOrder(rule=rule, train=train, effective_echo=effective), mask_of(plan)
    first = order.calibration(plan)
    rest = order.adaptive(mask, plan)
    assert sorted(first.ravel()) == np.flatnonzero(plan.calibration).tolist()
    assert sorted(rest.ravel()) == np.flatnonzero(mask & plan.movable).tolist()
    assert first.shape[1] == rest.shape[1] == train
    # k = 0 may lie at the edge of a calibration that partial Fourier has moved
    if effective is not None and not cut:
        assert order.centre_echo(plan) == effective


def test_a_part_that_is_no_multiple_of_the_train_leaves_echoes_idle() -> None:
    """The plan of the facts before calibrations were rounded: 21 lines in trains of 8."""
    plan = LinePlan.of(np.ones(256, dtype=bool), 4.0, n_calibration=21)
    for rule in RULES:
        shots = EchoOrder(rule=rule, train=8).calibration(plan)
        assert shots.shape == (3, 8)
        assert (shots == IDLE).sum() == 3


def test_linear_and_centre_out_send_neighbours_one_after_the_other() -> None:
    plan = plan_of(64, 2.0, 4)
    rows = np.flatnonzero(plan.calibration)
    assert EchoOrder(train=4).calibration(plan).ravel().tolist() == rows.tolist()
    out = EchoOrder(rule="centre-out", train=4).calibration(plan).ravel()
    assert out[:3].tolist() == [32, 31, 33]
    assert (np.diff(np.abs(out - 32)) >= 0).all()


def test_an_effective_echo_turns_the_trains_round() -> None:
    plan = plan_of(256, 4.0, 8)
    plain = EchoOrder(train=8).calibration(plan)
    turned = EchoOrder(train=8, effective_echo=2).calibration(plan)
    # 24 rows, k = 0 the 13th of them: echo 5 of the second train, turned to echo 2
    assert EchoOrder(train=8).centre_echo(plan) == 5
    assert np.array_equal(turned, np.roll(plain, -3, axis=1))


@pytest.mark.parametrize("train", [2, 3, 4, 8, 13, 20])
def test_continuous_puts_the_centre_in_the_middle_and_the_outermost_lines_beside_it(train) -> None:
    plan = plan_of(256, 3.0, train)
    order = EchoOrder(rule="continuous", train=train)
    assert order.centre_echo(plan) == train // 2 + 1
    inside = echoes_of(order.calibration(plan), 256)
    rows = np.flatnonzero(plan.calibration)
    assert (inside[rows[0]], inside[rows[-1]]) == (1, train)
    assert (np.diff(inside[rows]) >= 0).all()
    # as many lines on both sides: then each side uses up half of the echoes
    half, below = plan.n_movable // 2, np.flatnonzero(plan.movable)
    below = below[below < rows[0]]
    mask = plan.calibration.copy()
    mask[below[-half:]] = mask[rows[-1] + 1 : rows[-1] + 1 + plan.n_movable - half] = True
    beyond = echoes_of(order.adaptive(mask, plan), 256)
    assert beyond[rows[0] - 1] == 1
    assert beyond[rows[-1] + 1] == train
    outer = beyond[np.flatnonzero(beyond)]
    assert np.abs(np.diff(outer[: half - 1])).max(initial=0) <= 1
    assert np.abs(np.diff(outer[half + 1 :])).max(initial=0) <= 1


@pytest.mark.parametrize("effective", range(1, 9))
def test_continuous_has_no_jump_near_the_centre_wherever_the_effective_echo_is(effective) -> None:
    plan = plan_of(256, 4.0, 8)
    order = EchoOrder(rule="continuous", train=8, effective_echo=effective)
    assert order.centre_echo(plan) == effective
    inside = echoes_of(order.calibration(plan), 256)[plan.calibration]
    # a folded side goes through its echoes twice, so two in a step
    assert np.abs(np.diff(inside)).max() <= 2
    rest = order.adaptive(mask_of(plan), plan)
    whole = echoes_of(np.vstack([order.calibration(plan), rest]), 256)
    measured = whole[whole > 0]
    edge = np.flatnonzero(np.flatnonzero(whole) == np.flatnonzero(plan.calibration)[0])[0]
    # at the calibration's edge, where little signal is left, below half a train
    assert np.abs(np.diff(measured[edge - 1 : edge + 26])).max() <= 3


def test_bands_ascend_through_the_echoes_in_each_part_by_itself() -> None:
    plan = plan_of(256, 4.0, 8)
    order, mask = EchoOrder(rule="bands", train=8), mask_of(plan)
    assert order.centre_echo(plan) == 5
    for shots in (order.calibration(plan), order.adaptive(mask, plan)):
        echoes = echoes_of(shots, 256)
        assert (np.diff(echoes[echoes > 0]) >= 0).all()
        assert np.bincount(echoes)[1:].tolist() == [len(shots)] * 8


def test_shuffled_follows_its_seed() -> None:
    plan = plan_of(128, 2.0, 8)
    one, again, other = (
        EchoOrder(rule="shuffled", train=8, seed=seed).calibration(plan) for seed in (1, 1, 2)
    )
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_mask_of_the_calibration_alone_needs_no_further_shot() -> None:
    plan = plan_of(64, 4.0, 12)
    assert plan.n_movable == 0
    for rule in RULES:
        assert EchoOrder(rule=rule, train=12).adaptive(plan.calibration, plan).shape == (0, 12)


def test_trains_are_continuous_and_single_lines_linear_where_nothing_is_said() -> None:
    assert (default_rule(1), default_rule(2)) == ("linear", "continuous")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rule": "spiral"}, "order 'spiral', expected one of linear, centre-out"),
        ({"train": 0}, "an echo train of 0"),
        ({"train": 4, "effective_echo": 5}, "effective echo 5, expected 1 to 4"),
    ],
)
def test_orders_that_mean_nothing_are_refused(changes, said) -> None:
    with pytest.raises(ValueError, match=said):
        EchoOrder(**changes)
