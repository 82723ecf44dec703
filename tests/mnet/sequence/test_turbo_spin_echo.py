import numpy as np
import pytest

from mnet.sequence.slice_profile import TIME_BANDWIDTH, SliceProfile, waveform
from mnet.sequence.tissue import CSF, GREY, HEAD, WHITE, Tissue, columns
from mnet.sequence.turbo_spin_echo import TurboSpinEcho, echo_train
from tests.mnet.sequence import isochromats

IDEAL = SliceProfile.one_place()


def ideal(train: int = 8, **changes: float) -> TurboSpinEcho:
    """A protocol whose pulses have their nominal angle everywhere."""
    profile = SliceProfile(places=np.zeros(1), weights=np.ones(1))
    return TurboSpinEcho(train=train, profile=profile, **changes)


def angles(protocol: TurboSpinEcho) -> tuple[float, float]:
    """The angles in the middle of the slice: a short sinc's neighbour steps make them nominal."""
    return (float(protocol.profile.flip(a)[0]) for a in (90.0, protocol.refocusing_deg))


@pytest.mark.parametrize("refocusing", [60.0, 120.0, 150.0])
@pytest.mark.parametrize("tissue", [CSF, GREY], ids=lambda t: t.name)
@pytest.mark.parametrize("mz", [0.0, 0.3, 1.0])
def test_a_train_is_that_of_isochromats(refocusing, tissue, mz) -> None:
    protocol = ideal(12, refocusing_deg=refocusing)
    _, t1, t2 = columns([tissue])
    echoes, left = echo_train(t1, t2, protocol, mz)
    excitation, flip = angles(protocol)
    assert flip == pytest.approx(np.deg2rad(refocusing), abs=1e-12)
    expected, mz_after = isochromats.echo_train(
        tissue.t1_ms, tissue.t2_ms, 12, 9.6, flip, mz, excitation=excitation
    )
    assert np.abs(echoes[0, 0] - expected).max() < 1e-12
    assert abs(left[0, 0] - mz_after) < 1e-12


def test_at_180_degrees_echoes_decay_with_t2_alone_and_nothing_else_is_left() -> None:
    """The closed form that phase graphs, EPG or PDG, must give where every echo refocuses whole."""
    protocol = ideal(8, tr_ms=3000.0)
    steady = protocol.steady(HEAD)
    density, t1, t2 = columns(HEAD)
    n = np.arange(1, 9)
    # mz is turned over by every pulse, and grows towards 1 in between
    mz = np.zeros_like(t1)
    for _ in range(8):
        half = np.exp(-4.8 / t1)
        mz = 1 - (1 + (1 - (1 - mz) * half)) * half
    before = 1 - (1 - mz) * np.exp(-(3000.0 - 76.8) / t1)
    expected = density[:, None] * before[:, None] * np.exp(-n * 9.6 / t2[:, None])
    assert np.abs(steady - expected).max() < 1e-12


@pytest.mark.parametrize("refocusing", [120.0, 180.0])
def test_the_steady_state_is_where_very_many_shots_end(refocusing) -> None:
    protocol = TurboSpinEcho(train=8, tr_ms=1500.0, refocusing_deg=refocusing)
    slice_ = protocol.begin(HEAD)
    for _ in range(60):
        last = slice_.shot()
    assert np.abs(last - protocol.steady(HEAD)).max() < 1e-9


def test_the_first_shot_of_a_short_tr_is_far_off_and_one_dummy_brings_it_near() -> None:
    protocol = TurboSpinEcho(train=8, tr_ms=3000.0)
    slice_ = protocol.begin([GREY])
    shots = np.array([slice_.shot()[0, 4] for _ in range(3)])
    off = shots / protocol.steady([GREY])[0, 4] - 1
    # grey matter recovers to 1 - exp(-2923 / 1820) = 0.80 of its rest
    assert off[0] == pytest.approx(0.23, abs=0.02)
    assert abs(off[1]) < 0.01
    assert abs(off[2]) < 0.001


def test_a_pause_lets_magnetization_recover() -> None:
    protocol = TurboSpinEcho(train=8)
    slice_ = protocol.begin(HEAD)
    slice_.settle()
    before = slice_.mz.copy()
    slice_.rest(1000.0)
    _, t1, _ = columns(HEAD)
    assert np.allclose(1 - slice_.mz, (1 - before) * np.exp(-1000.0 / t1)[:, None])


def test_the_profile_makes_the_first_echo_weaker_than_the_second() -> None:
    """As a Bloch run over the slice has it (16 %): stimulated echoes are missing in echo 1."""
    echoes = TurboSpinEcho(train=8).steady(
        [WHITE, Tissue(name="long", density=1, t1_ms=1e4, t2_ms=1e4)]
    )
    assert echoes[1, 0] / echoes[1, 1] == pytest.approx(0.82, abs=0.03)
    assert echoes[0, 0] < echoes[0, 1]


def spread(n_places: int) -> np.ndarray:
    """Bloch runs of whole pulses with their gradients over the slice: (places, echoes)."""
    places = SliceProfile.symmetric(n_places).places
    found = []
    for place in places:
        echoes = _bloch_train(place)
        found.append(echoes)
    return np.array(found)


def _shaped(spins: np.ndarray, flip: float, phase: float, place: float) -> np.ndarray:
    steps = waveform(np.deg2rad(flip))
    turn = 2 * np.pi * TIME_BANDWIDTH * place / steps.size / 2

    def precess(s: np.ndarray, angle: float) -> np.ndarray:
        across = (s[:, 0] + 1j * s[:, 1]) * np.exp(1j * angle)
        return np.stack([across.real, across.imag, s[:, 2]], axis=1)

    for step in steps:
        spins = precess(spins, turn)
        spins = isochromats.turned(spins, step, phase)
        spins = precess(spins, turn)
    return spins


def _bloch_train(place: float, n_echoes: int = 4, n: int = 32) -> np.ndarray:
    t1, t2 = GREY.t1_ms, GREY.t2_ms
    spins = _shaped(np.tile([0.0, 0.0, 1.0], (n, 1)), 90.0, np.pi / 2, place)
    # the rephaser: half of the gradient's moment, for a symmetric pulse
    across = (spins[:, 0] + 1j * spins[:, 1]) * np.exp(-1j * np.pi * TIME_BANDWIDTH * place)
    spins = np.stack([across.real, across.imag, spins[:, 2]], axis=1)
    echoes = []
    for _ in range(n_echoes):
        spins = isochromats.precessed(spins, 4.8, t1, t2, 1)
        spins = _shaped(spins, 180.0, 0.0, place)
        spins = isochromats.precessed(spins, 4.8, t1, t2, 1)
        echoes.append((spins[:, 0] + 1j * spins[:, 1]).mean())
    return np.array(echoes)


def test_flip_angles_over_the_slice_give_what_whole_pulses_do() -> None:
    """Bloch runs of the pulses with their gradients: angle by place is all that signals need."""
    n = 8
    bloch = (spread(n) * SliceProfile.symmetric(n).weights[:, None]).sum(0)
    protocol = TurboSpinEcho(train=4, profile=SliceProfile.symmetric(n))
    first = protocol.begin([GREY]).shot()[0] / GREY.density
    # a rephaser of half the moment leaves a phase, which breaks CPMG a little: 1.4 %; without the
    # profile it is 40 % and more
    assert np.abs(np.abs(bloch) / first - 1).max() < 0.02


def test_trains_longer_than_tr_are_refused() -> None:
    with pytest.raises(ValueError, match=r"8 echoes of 9.6 ms take 76.8 ms, and TR is 50 ms"):
        TurboSpinEcho(train=8, tr_ms=50.0)


def test_tissues_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="T1 >= T2 > 0"):
        Tissue(name="wrong", density=1.0, t1_ms=50.0, t2_ms=80.0)
