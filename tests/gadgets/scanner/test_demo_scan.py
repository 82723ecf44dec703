import importlib.util

import numpy as np
import pytest

from gadgets.errors import ConfigError
from gadgets.files.source import open_source
from gadgets.mrd.geometry import Geometry
from gadgets.mrd.header_layouts import Flag
from gadgets.scanner.demo_scan import DemoVolume, demo_volume, write_demo

needs_template = pytest.mark.skipif(
    importlib.util.find_spec("nilearn") is None, reason="nilearn is not installed"
)

SMALL = {"n_slices": 2, "n_coils": 5, "n_x": 80, "n_ky": 92, "n_acquirable": 81}


@pytest.fixture(scope="module")
def small() -> DemoVolume:
    return demo_volume(**SMALL)


def images(kspace: np.ndarray) -> np.ndarray:
    """Independent of the code under test: root sum of squares (slices, x, y)."""
    axes = (-2, -1)
    coils = np.fft.fftshift(
        np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), axes=axes, norm="ortho"), axes=axes
    )
    return np.sqrt((np.abs(coils) ** 2).sum(1))


@needs_template
def test_shapes_are_those_of_a_knee_scan_with_unmeasured_edges(small) -> None:
    assert small.kspace.shape == (2, 5, 160, 92)
    assert small.kspace.dtype == np.complex64
    rows = np.flatnonzero(small.acquirable)
    assert (rows[0], rows[-1], rows.size) == (5, 85, 81)
    assert not small.kspace[..., ~small.acquirable].any()
    assert (np.abs(small.kspace[..., small.acquirable]).max(axis=(0, 1, 2)) > 0).all()


@needs_template
def test_the_header_places_every_counter_on_its_row(small) -> None:
    geometry = Geometry.parse(small.header)
    assert geometry.encoded == (160, 92, 1)
    assert geometry.recon == (80, 80, 1)
    assert geometry.n_x == 80
    assert (geometry.ky_min, geometry.ky_max, geometry.n_slices) == (0, 80, 2)
    rows = geometry.row(geometry.limit_counters)
    assert np.array_equal(rows, np.flatnonzero(small.acquirable))


@needs_template
def test_the_strongest_line_of_every_slice_is_near_the_centre_row(small) -> None:
    energy = (np.abs(small.kspace) ** 2).sum((1, 2))
    # a linear phase of the object moves the peak by less than a row or two
    assert np.all(np.abs(energy.argmax(1) - 46) <= 2)


@needs_template
def test_equal_seeds_give_equal_data_and_others_do_not(small) -> None:
    again, other = demo_volume(**SMALL), demo_volume(**SMALL, seed=1)
    assert np.array_equal(again.kspace, small.kspace)
    assert np.array_equal(again.noise, small.noise)
    assert not np.array_equal(other.kspace, small.kspace)


@needs_template
def test_the_head_lies_within_the_image_and_air_fills_the_oversampling(small) -> None:
    rss = images(small.kspace)
    head = rss[:, 40:120, 6:86]
    air = np.concatenate([rss[:, :38], rss[:, 122:]], axis=1)
    # scalp to scalp the head takes more than a third of the square, and outside there is noise
    assert (head > 3 * air.mean()).mean() > 0.33
    assert air.max() < 0.35 * head.max()


@needs_template
def test_slices_differ_from_each_other(small) -> None:
    a, b = images(small.kspace)
    assert np.linalg.norm(a - b) > 0.3 * np.linalg.norm(a)


@needs_template
def test_signal_to_noise_is_that_of_a_clinical_scan(small) -> None:
    # noise per coil from the noise scan; combined noise is that of one coil at unit-norm maps
    sigma = np.sqrt((np.abs(small.noise) ** 2).mean())
    rss = images(small.kspace)[:, 40:120, 6:86]
    inside = rss > 0.25 * rss.max()
    assert 10 < rss[inside].mean() / sigma < 40


@needs_template
def test_the_file_holds_the_noise_scan_and_every_acquirable_line(small, tmp_path) -> None:
    path = tmp_path / "demo.h5"
    write_demo(path, small)
    source = open_source(path)
    noise = [a for a in source.acquisitions if a.header["flags"] & Flag.NOISE]
    lines = [a for a in source.acquisitions if not a.header["flags"] & Flag.NOISE]
    assert len(noise) == 64
    assert len(lines) == 2 * 81
    rebuilt = np.zeros_like(small.kspace)
    for line in lines:
        row = source.geometry.row(int(line.header["kspace_encode_step_1"]))
        rebuilt[int(line.header["slice"]), :, :, row] = line.data
    assert np.array_equal(rebuilt, small.kspace)
    assert lines[-1].header["flags"] & Flag.LAST_IN_MEASUREMENT


def test_without_the_template_the_error_names_the_extra(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install mnet-gadgets\[demo\]"):
        demo_volume(**SMALL)
