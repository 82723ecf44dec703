"""Files of fastMRI's shapes from random smooth objects, and the same scan as MRD."""

from pathlib import Path

import h5py
import ismrmrd
import numpy as np

KNEE = (2, 15, 640, 368)  # slices, coils, kx, ky
WIDE = (2, 15, 640, 372)
TINY = (3, 4, 80, 48)
ACQUIRED = {368: 322, 372: 326, 48: 40}
PIXEL = 0.4375  # mm


def fft2(images, inverse=False):
    axes = (-2, -1)
    transform = np.fft.ifft2 if inverse else np.fft.fft2
    return np.fft.fftshift(
        transform(np.fft.ifftshift(images, axes=axes), axes=axes, norm="ortho"), axes=axes
    )


def cropped(images, n_x):
    """Keep the central n_x pixels along x, around n // 2."""
    first = images.shape[-2] // 2 - n_x // 2
    return images[..., first : first + n_x, :]


def smooth(rng, shape, n=6):
    """Draw a smooth complex field: few waves across the matrix."""
    x, y = (np.linspace(-1, 1, size) for size in shape)
    field = np.zeros(shape, complex)
    for i in range(n):
        for j in range(n):
            weight = rng.normal() + 1j * rng.normal()
            field += weight / (1 + i + j) * np.outer(np.cos(i * x), np.cos(j * y + i))
    return field / np.abs(field).max()


def kspace(shape, *, seed=0, noise=0.02):
    """Return (slices, coils, kx, ky) complex64 of an object within the central half along x."""
    rng = np.random.default_rng(seed)
    n_slices, n_coils, *size = shape
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    angles = 2 * np.pi * np.arange(n_coils) / n_coils
    coils = [
        np.exp(-((x - 0.5 * np.cos(a)) ** 2 + (y - np.sin(a)) ** 2)) * np.exp(1j * (a + x * y))
        for a in angles
    ]
    data = []
    for _ in range(n_slices):
        inside = (x / 0.42) ** 2 + (y / 0.8) ** 2 < 1
        texture = 1 + 0.5 * np.cos(rng.uniform(9, 15) * x + rng.uniform(9, 15) * y)
        image = inside * texture * np.exp(2j * np.abs(smooth(rng, size)))
        data.append(fft2(np.stack(coils) * image))
    data = np.stack(data)
    data += noise * (rng.normal(size=data.shape) + 1j * rng.normal(size=data.shape))
    data *= 1e-5
    data[..., ~window(shape[-1])] = 0
    return data.astype(np.complex64)


def window(n_ky):
    first = n_ky // 2 - ACQUIRED[n_ky] // 2
    rows = np.arange(n_ky)
    return (first <= rows) & (rows < first + ACQUIRED[n_ky])


def header(shape, limits=None):
    """Return the header; limits are minimum, centre and maximum."""
    _, n_coils, n_kx, n_ky = shape
    n_acquired = ACQUIRED[n_ky]
    low, centre, high = limits or (0, n_acquired // 2, n_acquired - 1)
    n = n_kx // 2

    def space(name, matrix, pixels):
        parts = {"matrixSize": (*matrix, 1), "fieldOfView_mm": (*(p * PIXEL for p in pixels), 3)}
        inner = "".join(
            f"<{key}>"
            + "".join(f"<{a}>{v}</{a}>" for a, v in zip("xyz", values, strict=True))
            + f"</{key}>"
            for key, values in parts.items()
        )
        return f"<{name}>{inner}</{name}>"

    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        f"<acquisitionSystemInformation><receiverChannels>{n_coils}</receiverChannels>"
        "</acquisitionSystemInformation><experimentalConditions><H1resonanceFrequency_Hz>1"
        "</H1resonanceFrequency_Hz></experimentalConditions><encoding>"
        + space("encodedSpace", (n_kx, n_ky), (n_kx, n_ky))
        + space("reconSpace", (n, n), (n, min(n, n_ky)))
        + "<encodingLimits><kspace_encoding_step_1>"
        f"<minimum>{low}</minimum><maximum>{high}</maximum><center>{centre}</center>"
        "</kspace_encoding_step_1></encodingLimits><trajectory>cartesian</trajectory>"
        "</encoding></ismrmrdHeader>"
    ).encode()


def write(path: Path, shape=TINY, *, data=None, xml="", patient=None, seed=0):
    """Write a file, by default with its own header (xml=None: none); returns its k-space."""
    data = kspace(shape, seed=seed) if data is None else data
    with h5py.File(path, "w") as file:
        file["kspace"] = data
        if xml is not None:
            file["ismrmrd_header"] = xml or header(shape)
        if patient is not None:
            file.attrs["patient_id"] = patient
    return data


def write_mrd(path: Path, data, *, skip=(), noise=None, averages=1):
    """Write the same k-space as MRD; `skip` are (slice, row) left out, `noise` (coils, samples)."""
    n_slices, n_coils, n_kx, n_ky = data.shape
    rows = np.flatnonzero(window(n_ky))
    dataset = ismrmrd.Dataset(str(path), "dataset", create_if_needed=True)
    dataset.write_xml_header(header(data.shape))
    if noise is not None:
        line = ismrmrd.Acquisition.from_array(noise.astype(np.complex64))
        line.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        dataset.append_acquisition(line)
    for i in range(n_slices):
        for average in range(averages):
            for row in rows[::-1]:
                if (i, row) in skip:
                    continue
                values = np.ascontiguousarray(data[i, :, :, row]) * (1 + average)
                line = ismrmrd.Acquisition.from_array(values)
                line.center_sample = n_kx // 2
                line.idx.kspace_encode_step_1 = row - rows[0]
                line.idx.slice, line.idx.average = i, average
                dataset.append_acquisition(line)
    dataset.close()
    return n_coils
