"""Apodise does what it says, and no more: run it with `python -m pytest docs/examples`."""

from pathlib import Path

import numpy as np
import pytest

from gadgets.errors import ConfigError
from gadgets.mrd.geometry import Geometry
from gadgets.mrd.header_layouts import ACQUISITION_HEADER, ImageKey
from gadgets.mrd.header_xml import header_xml
from gadgets.mrd.items import Acquisition, Frame
from gadgets.pipeline.own_gadgets import own_gadgets
from gadgets.pipeline.properties import build
from gadgets.pipeline.scan import Scan

Apodise = own_gadgets(Path(__file__).parent / "own-gadgets").kind("apodise.Apodise")
N = 128
SIZE = {"encoded": (N, N, 1), "encoded_fov": (N, N, 5), "recon": (N, N, 1), "recon_fov": (N, N, 5)}
SCAN = Scan(geometry=Geometry.parse(header_xml(**SIZE, n_coils=1)))
LINE = np.zeros(1, ACQUISITION_HEADER)[0]


def apodised(image: np.ndarray, taper: str = "1") -> Frame:
    """Send one image (x, y) through the gadget as the pipeline's XML would make it."""
    frame = Frame(
        key=ImageKey(0, 0, 0, 0, 0, 0),
        header=LINE,
        kspace=np.zeros((1, N, N), np.complex64),
        mask=np.ones(N, bool),
        calibration=np.zeros(N, bool),
        image=image.astype(np.complex64),
    )
    (got,) = build("Apodise", Apodise, {"taper": taper})(SCAN, iter([frame]))
    return got


def test_a_uniform_image_stays_as_it_is_and_says_what_was_done() -> None:
    got = apodised(np.ones((N, N)), "0.5")
    np.testing.assert_allclose(got.image, 1, atol=1e-5)  # the window is 1 at the centre of k-space
    assert got.meta == {"apodisation": "Tukey 0.5"}


def test_noise_falls_to_the_power_of_the_window() -> None:
    noise = np.random.default_rng(0).normal(size=(2, N, N))
    got = apodised(noise[0] + 1j * noise[1]).image
    # Hann's window has a mean square of 3/8 along each axis; of N * N values the power is known to
    # 1 %, of which 3/8 of them squared are independent
    assert np.mean(np.abs(got) ** 2) / 2 == pytest.approx((3 / 8) ** 2, rel=0.05)


def test_an_edge_rings_by_less_than_a_percent_instead_of_nine() -> None:
    wide = np.zeros(16 * N)  # a slab, 16 times finer than the image
    wide[6 * N + 1 : 10 * N] = 1  # its edges lie on pixels, where the ringing shows most
    spectrum = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(wide)))[15 * N // 2 : 17 * N // 2]
    slab = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(spectrum))).real / 16
    image = np.repeat(slab[:, None], N, 1)
    assert image.max() - 1 == pytest.approx(0.09, abs=0.005)  # Gibbs, whatever the matrix
    assert np.abs(apodised(image).image).max() - 1 < 0.01


def test_what_is_no_frame_passes_untouched() -> None:
    line = Acquisition(header=LINE, data=np.ones((1, N), np.complex64))
    assert next(Apodise()(SCAN, iter([line]))) is line


@pytest.mark.parametrize("taper", ["0", "1.5", "nan", "wide"])
def test_a_taper_that_is_no_share_is_refused_when_the_pipeline_is_read(taper: str) -> None:
    with pytest.raises(ConfigError, match="taper is"):
        build("Apodise", Apodise, {"taper": taper})
