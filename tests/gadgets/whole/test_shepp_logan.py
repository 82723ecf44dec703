"""Data of the C++ generator through `cg_sense.xml`, against a reconstruction of other parts."""

import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest

from gadgets.host.child_host import Address
from gadgets.scanner.replay import replay
from gadgets.steps.image_finish import SERIES

GENERATOR = "ismrmrd_generate_cartesian_shepp_logan"
MATRIX, COILS, REPETITIONS = 64, 8, 2
BANDWIDTH = 0.793  # the relative receiver noise bandwidth that the generator writes


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which(GENERATOR) is None:
        pytest.skip(f"no {GENERATOR} (Debian package ismrmrd-tools)")
    path = tmp_path_factory.mktemp("phantom") / "phantom.h5"
    command = [GENERATOR, "-m", MATRIX, "-c", COILS, "-r", REPETITIONS, "-C", "-o", path]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return path


def independent(path: Path) -> list[np.ndarray]:
    """Read by ismrmrd-python, whiten by Cholesky, maps and SENSE by sigpy: images (y, x)."""
    import ismrmrd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sigpy.mri.app import EspiritCalib, SenseRecon

    dataset = ismrmrd.Dataset(path, "dataset", False)
    lines = [dataset.read_acquisition(i) for i in range(dataset.number_of_acquisitions())]
    dataset.close()
    noise = [a.data for a in lines if a.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
    samples = np.concatenate(noise, axis=1)
    covariance = samples @ samples.conj().T / samples.shape[1]
    whiten = np.linalg.inv(np.linalg.cholesky(covariance)) * np.sqrt(2 * BANDWIDTH)
    images = []
    for repetition in range(REPETITIONS):
        kspace = np.zeros((COILS, MATRIX, 2 * MATRIX), np.complex64)
        for line in lines:
            if (
                not line.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
                and line.idx.repetition == repetition
            ):
                kspace[:, line.idx.kspace_encode_step_1] = whiten @ line.data

        def to(function, x):  # type: ignore[no-untyped-def]
            x = np.fft.ifftshift(x, axes=-1)
            return np.fft.fftshift(function(x, norm="ortho"), axes=-1)

        readout = to(np.fft.ifft, kspace)[..., MATRIX // 2 : MATRIX // 2 + MATRIX]
        cropped = to(np.fft.fft, readout).astype(np.complex64)
        maps = EspiritCalib(
            cropped, calib_width=24, thresh=0.02, kernel_width=6, crop=0.7, show_pbar=False
        ).run()
        recon = SenseRecon(cropped, maps, lamda=0.02, max_iter=50, show_pbar=False).run()
        images.append(np.abs(recon))
    return images


def test_cg_sense_of_the_generated_phantom_equals_sigpy(address: Address, phantom: Path) -> None:
    images = [
        image
        for image in replay(phantom, address, "cg_sense.xml").images
        if int(image.header["image_series_index"]) == SERIES
    ]
    assert [int(image.header["repetition"]) for image in images] == list(range(REPETITIONS))
    for image, expected in zip(images, independent(phantom), strict=True):
        error = np.linalg.norm(image.data[0, 0] - expected) / np.linalg.norm(expected)
        print(f"relative difference to the independent reconstruction: {error:.2e}")
        # ESPIRiT by power iteration (sigpy) and by squaring (ours) differ by about 1e-3
        assert error < 1e-2
