import numpy as np
import pytest

from mnet.sequence import gradient_echo
from mnet.sequence.gradient_echo import SpoiledGradientEcho
from mnet.sequence.slice_profile import SliceProfile
from mnet.sequence.tissue import CSF, FAT, GREY, HEAD, WHITE, columns
from tests.mnet.sequence import isochromats


def ideal(**changes: float) -> SpoiledGradientEcho:
    return SpoiledGradientEcho(profile=SliceProfile.one_place(), **changes)


@pytest.mark.parametrize("flip", [5.0, 15.0, 60.0])
@pytest.mark.parametrize("tissue", [CSF, GREY, FAT], ids=lambda t: t.name)
def test_every_pulse_is_that_of_isochromats(flip, tissue) -> None:
    """RF spoiling included, so that it holds at a TR far below T2; and a silence in the middle."""
    n = 120  # fewer than there are orders: then nothing is left out
    protocol = ideal(flip_deg=flip)
    slice_ = protocol.begin([tissue])
    signals = []
    for i in range(n):
        if i == 70:
            slice_.rest(500.0)
        signals.append(slice_.shot()[0, 0] / tissue.density)
    angle = float(protocol.profile.flip(flip)[0])
    expected = isochromats.spoiled(
        tissue.t1_ms, tissue.t2_ms, n, 10.0, 4.0, angle, 2 * n + 1, silent_ms=500.0, silent_at=70
    )
    assert np.abs(np.array(signals) - expected).max() < 1e-12


def test_at_a_long_tr_the_steady_state_is_that_of_ideal_spoiling() -> None:
    protocol = ideal(tr_ms=500.0, flip_deg=40.0)
    tissues = [GREY, WHITE, FAT]
    density, t1, t2 = columns(tissues)
    e1, flip = np.exp(-500.0 / t1), np.deg2rad(40.0)
    ernst = density * np.sin(flip) * (1 - e1) / (1 - e1 * np.cos(flip)) * np.exp(-4.0 / t2)
    # exp(-500 / 133) of the fat's last echo is still there
    assert np.abs(protocol.steady(tissues)[:, 0] / ernst - 1).max() < 0.01


def test_at_a_short_tr_it_is_not() -> None:
    """Ideal spoiling is off by 5 % in grey matter at TR 10 ms: that is why states are followed."""
    density, t1, t2 = columns([GREY])
    e1, flip = np.exp(-10.0 / t1), np.deg2rad(15.0)
    ernst = density * np.sin(flip) * (1 - e1) / (1 - e1 * np.cos(flip)) * np.exp(-4.0 / t2)
    off = abs(ideal().steady([GREY])[0, 0]) / ernst[0] - 1
    assert 0.02 < abs(off) < 0.1


def test_orders_that_are_left_out_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    tissues = [GREY, WHITE, FAT]
    few = ideal().steady(tissues)
    monkeypatch.setattr(gradient_echo, "N_ORDERS", 450)
    many = ideal().steady(tissues)
    assert np.abs(few / many - 1).max() < 1e-4


def test_a_hundred_pulses_bring_grey_matter_near_its_steady_state_and_none_do_not() -> None:
    protocol = SpoiledGradientEcho()
    steady = abs(protocol.steady([GREY])[0, 0])
    slice_ = protocol.begin([GREY])
    signals = np.array([abs(slice_.shot()[0, 0]) for _ in range(101)])
    assert signals[0] > 3 * steady
    assert abs(signals[100] / steady - 1) < 0.25


def test_a_silent_wait_undoes_it_and_a_pulsing_one_does_not() -> None:
    silent, pulsing = (SpoiledGradientEcho().begin(HEAD) for _ in range(2))
    for slice_ in (silent, pulsing):
        slice_.settle()
    before = silent.shot()
    silent.rest(500.0)
    for _ in range(50):
        pulsing.shot()
    grey = HEAD.index(GREY)
    assert abs(silent.shot()[grey, 0]) > 1.5 * abs(before[grey, 0])
    assert abs(pulsing.shot()[grey, 0]) == pytest.approx(abs(before[grey, 0]), rel=0.02)


def test_protocols_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="echo at 12 ms is not within TR, 10 ms"):
        SpoiledGradientEcho(echo_ms=12.0)
    with pytest.raises(ValueError, match="trains of 1, got 8"):
        SpoiledGradientEcho(train=8)
