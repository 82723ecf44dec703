import numpy as np
import pytest
import torch
from torch.nn import functional

from mnet.masks.densities import uniform_random
from mnet.physics.fourier import inverse_fourier
from training.data.corpus import Sample
from training.data.fastmri import to_sample
from training.masks.nearest import GRID, Nearest, distances, feature


def scan(seed, *, n_x=40, n_ky=64, n_coils=3, acceleration=2.0):
    """Return a scan of a random smooth object, seen by coils at its sides."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(-1, 1, n_x), np.linspace(-1, 1, n_ky), indexing="ij")
    middle, radius = rng.uniform(-0.2, 0.2, 2), rng.uniform(0.4, 0.7, 2)
    inside = ((x - middle[0]) / radius[0]) ** 2 + ((y - middle[1]) / radius[1]) ** 2 < 1
    image = inside * (1.2 + np.cos(rng.uniform(2, 6) * x + rng.uniform(2, 6) * y))
    angles = 2 * np.pi * np.arange(n_coils) / n_coils
    coils = np.stack(
        [np.exp(-((x - np.cos(a)) ** 2) - (y - np.sin(a)) ** 2 + 1j * a) for a in angles]
    )
    kspace = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(coils * image, axes=-1)), axes=-1)
    noise = rng.normal(size=kspace.shape) + 1j * rng.normal(size=kspace.shape)
    kspace = torch.from_numpy((kspace + 0.05 * noise).astype(np.complex64))
    return to_sample(kspace, np.ones(n_ky, bool), acceleration)


def with_masks(samples):
    rng = np.random.default_rng(1)
    return [(sample, uniform_random(sample.plan(), rng)) for sample in samples]


def plain_feature(sample: Sample):
    """Compute the feature with a loop over coils."""
    image = torch.zeros(sample.csm.shape[1:], dtype=torch.complex64)
    for kspace, maps in zip(sample.kspace, sample.csm, strict=True):
        only = torch.zeros_like(kspace)
        rows = np.flatnonzero(sample.plan().calibration)
        only[:, rows] = kspace[:, rows]
        image += maps.conj() * inverse_fourier(only, -1)
    image = image.abs() / image.abs().max()
    return functional.interpolate(image[None, None], GRID, mode="bilinear", antialias=True)[0, 0]


@pytest.fixture(scope="module")
def examples():
    sizes = [(40, 64), (48, 64), (56, 72)]
    samples = [
        scan(i, n_x=sizes[i % 3][0], n_ky=sizes[i % 3][1], acceleration=(2.0, 3.0)[i % 2])
        for i in range(18)
    ]
    return with_masks(samples)


def test_the_neighbour_is_that_of_a_loop_over_all_examples(examples):
    nearest = Nearest(examples)
    queries = [scan(100 + i, acceleration=(2.0, 3.0)[i % 2]) for i in range(6)]
    expected = []
    for query in queries:
        best, number = np.inf, -1
        for i, (sample, _) in enumerate(examples):
            alike = sample.acceleration == query.acceleration
            if not alike or sample.kspace.shape[-1] != query.kspace.shape[-1]:
                continue
            away = float(torch.linalg.norm(plain_feature(query) - plain_feature(sample)))
            if away < best:
                best, number = away, i
        expected.append(number)
    assert nearest.neighbours(queries) == expected
    assert len(set(expected)) > 1
    for query, number in zip(queries, expected, strict=True):
        np.testing.assert_array_equal(nearest(query), nearest.mask(number, query))


def test_batched_distances_are_frobenius_norms():
    rng = torch.Generator().manual_seed(0)
    a, b = torch.rand(5, 48, 48, generator=rng), torch.rand(7, 48, 48, generator=rng)
    expected = torch.stack(
        [torch.stack([torch.linalg.norm((x - y).double()) ** 2 for y in b]) for x in a]
    )
    torch.testing.assert_close(distances(a.flatten(1), b.flatten(1)), expected)


def test_a_scan_among_the_examples_is_its_own_neighbour_with_its_own_mask(examples):
    nearest = Nearest(examples)
    for number, (sample, mask) in enumerate(examples):
        assert nearest.neighbours([sample]) == [number]
        np.testing.assert_array_equal(nearest(sample), mask)


def test_only_the_calibration_lines_and_no_scale_enter(examples):
    sample, _ = examples[0]
    plan = torch.from_numpy(sample.plan().calibration)
    other = Sample(
        kspace=7 * torch.where(plan, sample.kspace, torch.nan),
        clean=sample.clean,
        csm=sample.csm,
        acquirable=sample.acquirable,
        acceleration=sample.acceleration,
    )
    torch.testing.assert_close(feature(other), feature(sample))


def test_features_hardly_depend_on_the_matrix_size():
    coarse, fine = (feature(scan(3, n_x=n, n_ky=n)) for n in (64, 96))
    others = [float((feature(scan(seed)) - coarse).norm()) for seed in (4, 5, 6)]
    assert float((coarse - fine).norm()) < 0.5 * min(others)


def test_neighbours_never_come_from_the_same_subject(examples):
    subjects = [f"head-{i % 3}" for i in range(len(examples))]
    nearest = Nearest(examples, subjects)
    for number, (sample, _) in enumerate(examples):
        found = nearest.neighbours([sample], [subjects[number]])[0]
        assert subjects[found] != subjects[number]
        alone = nearest.neighbours([sample], exclude=lambda i, own=number: i == own)[0]
        assert alone != number


def test_a_mask_for_another_plan_keeps_to_that_plan(examples):
    nearest = Nearest(examples)
    for n_ky, acceleration in [(80, 2.0), (64, 3.0), (90, 5.0)]:
        query = scan(50, n_ky=n_ky, acceleration=acceleration)
        plan = query.plan()
        mask = nearest(query)
        assert mask.sum() == plan.n_lines
        assert not np.any(mask & ~plan.acquirable)
        assert np.all(mask[plan.calibration])


def test_the_nearest_acceleration_serves_where_there_is_no_equal_one(examples):
    nearest = Nearest(examples)
    found = nearest.neighbours([scan(60, acceleration=5.0)])[0]
    assert examples[found][0].acceleration == 3.0


def test_what_cannot_be_is_refused(examples):
    with pytest.raises(ValueError, match="expected examples, got none"):
        Nearest([])
    with pytest.raises(ValueError, match="subjects of 18 examples, got 1"):
        Nearest(examples, ["a"])
    sample, mask = examples[0]
    with pytest.raises(ValueError, match="cannot be kept out"):
        Nearest(examples)(sample, subject="a")
    with pytest.raises(ValueError, match="no example of 18 is left for subject 'a'"):
        Nearest(examples, ["a"] * 18)(sample, subject="a")
    with pytest.raises(ValueError, match="mask has"):
        Nearest([(sample, mask & ~sample.plan().movable)])
