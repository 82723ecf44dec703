from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mnet.physics.fourier import fourier, inverse_fourier
from tests.training.helpers.generated import cohort, volumes
from training.data import corpus, fastmri
from training.data.read_images import load_parts
from training.data.statistics import N_BINS, Statistics, energy, ranges, statistics, table
from training.data.volume import read_volume

BRAINS = ("brain_pd_16ch_pulseq", "brain_t1_sag_1ch_larson", "brain_t2_4ch_gpunufft")
N = 48


def scan(image: torch.Tensor, csm: torch.Tensor, noise: float = 0.0) -> corpus.Sample:
    generator = torch.Generator().manual_seed(0)
    signal = fourier(csm * image, dim=-1).to(torch.complex64)
    kspace = signal + noise * torch.randn(signal.shape, dtype=torch.complex64, generator=generator)
    return corpus.Sample(
        kspace=kspace,
        clean=signal,
        csm=csm,
        acquirable=np.ones(image.shape[1], dtype=bool),
        acceleration=4.0,
        noise=noise,
    )


def disc(radius: float = 0.7, middle: float = 0.0) -> torch.Tensor:
    x, y = torch.meshgrid(*(torch.arange(N) / (N / 2) - 1,) * 2, indexing="ij")
    return (x**2 + (y - middle) ** 2 < radius**2).to(torch.complex64)


def quarters() -> torch.Tensor:
    """Four coils that see a quarter of the field of view each."""
    csm = torch.zeros(4, N, N, dtype=torch.complex64)
    for coil in range(4):
        i, j = (coil // 2) * N // 2, (coil % 2) * N // 2
        csm[coil, i : i + N // 2, j : j + N // 2] = 1
    return csm


def test_coils_that_see_nothing_in_common_count_in_full_and_equal_ones_as_one():
    apart = statistics(scan(disc(), quarters(), 0.01))
    assert apart.coils == pytest.approx(4, rel=0.02)
    assert apart.coils_by_row == pytest.approx(2, rel=0.02)
    same = statistics(scan(disc(), torch.full((4, N, N), 0.5, dtype=torch.complex64), 0.01))
    assert same.coils == pytest.approx(1, abs=1e-3)
    assert same.first_coil == pytest.approx(1, abs=1e-3)


def test_an_echo_off_the_middle_is_a_ramp_and_no_slope():
    one = torch.ones(1, N, N, dtype=torch.complex64)
    ramp = torch.polar(torch.ones(N), 2 * np.pi * 2 * torch.arange(N) / N)  # two samples
    plain, moved = (statistics(scan(image, one, 1e-3)) for image in (disc(), disc() * ramp))
    assert moved.ramp_y == pytest.approx(4 * np.pi, rel=0.03)
    assert moved.ramp_x == pytest.approx(0, abs=0.05)
    assert moved.phase_slope == pytest.approx(plain.phase_slope, abs=0.5)


def test_noise_is_of_the_mean_brightness():
    one = torch.ones(1, N, N, dtype=torch.complex64)
    smooth = inverse_fourier(inverse_fourier(disc(), -1), -2)  # any image with quiet corners
    window = torch.hann_window(N)
    smooth = fourier(fourier(smooth * window[:, None] * window, -1), -2)
    for unit in (1.0, 1e3):
        found = statistics(scan(unit * smooth, one, 0.05 * unit))
        bright = float(smooth.abs()[disc(0.5).abs() > 0].mean())
        assert found.noise == pytest.approx(0.05 / bright, rel=0.3)


def test_an_object_off_the_middle_or_at_the_edge_is_seen():
    one = torch.ones(1, N, N, dtype=torch.complex64)
    middle, off = (statistics(scan(disc(0.5, at), one, 0.01)) for at in (0.0, 0.4))
    assert middle.centre < 0.01
    assert off.centre == pytest.approx(0.2, abs=0.02)
    assert middle.edge < 0.05
    assert statistics(scan(disc(2.0), one, 0.01)).edge > 0.9
    assert middle.support == pytest.approx(np.pi * 0.25 / 4, rel=0.3)


def test_shares_of_energy_sum_to_one_and_leave_out_the_noise():
    sample = corpus.draw(volumes(), cohort(), 0)
    assert energy(sample).sum() == pytest.approx(1)
    loud = replace(sample, kspace=sample.clean + 0.2 * torch.randn(sample.clean.shape))
    assert energy(loud)[-1] < 0.02


def test_tables_hold_every_statistic():
    found = statistics(corpus.draw(volumes(), cohort(), 0))
    names = {field.name for field in fields(Statistics)}
    assert set(table({"a": found})["a"]) == set(ranges([found])) == names
    assert all(np.isfinite(value) for value in table({"a": found})["a"].values())


@pytest.fixture(scope="module")
def simulated(shared: Path) -> list[corpus.Sample]:
    heads = load_parts(shared / "data" / "images", ("head-1", "head-4"))
    described = corpus.Cohort(parts=(), n=96, seed=3, largest=320)
    return [corpus.draw(heads, described, number) for number in range(described.n)]


@pytest.fixture(scope="module")
def found(simulated: list[corpus.Sample]) -> list[Statistics]:
    return [statistics(sample) for sample in simulated]


@pytest.mark.slow  # 96 heads are simulated
@pytest.mark.parametrize("brain", BRAINS)
def test_simulated_heads_cover_what_real_brains_measure(shared, found, brain):
    # Of 96 draws the outermost are near the 1st and 99th percentile: a little more is allowed.
    volume = read_volume(shared / "data" / "raw" / f"{brain}.h5")
    real = table({brain: statistics(next(fastmri.samples(volume, 4.0, [0])))})[brain]
    for name, (least, _, _, _, largest) in ranges(found).items():
        more = 0.05 * (largest - least)
        assert least - more <= real[name] <= largest + more, name


@pytest.mark.slow  # 96 heads are simulated
@pytest.mark.parametrize("brain", BRAINS)
def test_energy_by_ky_of_real_brains_lies_within_that_of_simulated_heads(shared, simulated, brain):
    volume = read_volume(shared / "data" / "raw" / f"{brain}.h5")
    real = energy(next(fastmri.samples(volume, 4.0, [0])))
    drawn = np.array([energy(sample) for sample in simulated])
    assert (real >= drawn.min(axis=0)).all()
    assert (real <= drawn.max(axis=0)).all()
    assert len(real) == N_BINS
