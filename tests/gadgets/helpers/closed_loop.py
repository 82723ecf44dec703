"""A small scan with everything a closed loop needs, made up in memory."""

from dataclasses import replace

import numpy as np
import torch

from gadgets.files.source import Source
from gadgets.mrd.header_layouts import ACQUISITION_HEADER, Flag
from gadgets.mrd.header_xml import header_xml
from gadgets.mrd.items import Acquisition
from gadgets.scanner.sequence import SequenceParameters
from mnet.masks.densities import low_pass, variable_density
from mnet.masks.line_plan import LinePlan
from mnet.physics.fourier import fourier

N_X, N_KY, N_COILS = 48, 64, 4


def head_like(n_x: int, n_y: int, shift: float) -> np.ndarray:
    """An ellipse with structure inside, different for every `shift`."""
    x, y = np.meshgrid(np.linspace(-1, 1, n_x), np.linspace(-1, 1, n_y), indexing="ij")
    image = ((x / 0.8) ** 2 + (y / 0.7) ** 2 < 1).astype(float)
    image += 0.5 * (((x - 0.2 - shift) / 0.2) ** 2 + ((y + 0.1) / 0.3) ** 2 < 1)
    image *= 1 + 0.3 * np.cos(9 * x + 5 * shift) * np.cos(7 * y)
    return image * np.exp(1j * (0.5 * x + 0.3 * y))


def coil_images(n_x: int, n_y: int, shift: float, n_coils: int = N_COILS) -> torch.Tensor:
    x, y = np.meshgrid(np.linspace(-1, 1, n_x), np.linspace(-1, 1, n_y), indexing="ij")
    angles = 2 * np.pi * np.arange(n_coils) / n_coils
    maps = [np.exp(-((x - np.cos(a)) ** 2 + (y - np.sin(a)) ** 2) / 2 + 1j * a * x) for a in angles]
    return torch.from_numpy(np.stack(maps) * head_like(n_x, n_y, shift))


def source(
    n_slices: int = 2,
    *,
    n_repetitions: int = 1,
    measurement_id: str = "7",
    n_coils: int = N_COILS,
    seed: int = 0,
) -> Source:
    """A fully sampled scan with 2x readout oversampling."""
    rng = np.random.default_rng(seed)
    header = header_xml(
        encoded=(2 * N_X, N_KY, 1),
        encoded_fov=(2 * N_X, N_KY, 5),
        recon=(N_X, N_KY, 1),
        recon_fov=(N_X, N_KY, 5),
        n_coils=n_coils,
        n_slices=n_slices,
        n_repetitions=n_repetitions,
        measurement_id=measurement_id,
    )
    lines = []
    for repetition in range(n_repetitions):
        for slice_ in range(n_slices):
            image = coil_images(N_X, N_KY, 0.15 * slice_ + 0.05 * seed, n_coils)
            padded = torch.nn.functional.pad(image, (0, 0, N_X // 2, N_X // 2))
            kspace = fourier(fourier(padded, -2), -1).numpy()
            noise = rng.normal(size=(2, *kspace.shape))
            kspace = kspace + 0.002 * (noise[0] + 1j * noise[1])
            for ky in range(N_KY):
                line_header = np.zeros(1, ACQUISITION_HEADER)[0]
                line_header["version"], line_header["measurement_uid"] = 1, 7
                line_header["scan_counter"] = len(lines)
                line_header["number_of_samples"], line_header["active_channels"] = 2 * N_X, n_coils
                line_header["available_channels"], line_header["center_sample"] = n_coils, N_X
                line_header["kspace_encode_step_1"], line_header["slice"] = ky, slice_
                line_header["repetition"], line_header["sample_time_us"] = repetition, 5.0
                line_header["read_dir"], line_header["phase_dir"], line_header["slice_dir"] = (
                    np.eye(3)
                )
                line_header["position"] = (0, 0, 6 * slice_)
                if ky == 0:
                    line_header["flags"] = Flag.FIRST_IN_SLICE
                if ky == N_KY - 1:
                    line_header["flags"] = Flag.LAST_IN_SLICE
                data = np.ascontiguousarray(kspace[:, :, ky]).astype(np.complex64)
                lines.append(Acquisition(header=line_header, data=data))
    return Source(kind="MRD HDF5", header=header, acquisitions=lines)


def sequence(acceleration: float = 2.0, seed: int = 0, **options: object) -> SequenceParameters:
    plan = LinePlan.of(np.ones(N_KY, dtype=bool), acceleration)
    fallback = variable_density(plan, np.random.default_rng(seed)) if seed else low_pass(plan)
    return replace(SequenceParameters(plan=plan, fallback=fallback), **options)  # type: ignore[arg-type]


def in_float32(pipeline: str) -> str:
    """Let what differs in the last digits stay there: bfloat16 has only three."""
    found = pipeline.replace('name="precision" value="auto"', 'name="precision" value="float32"')
    assert found != pipeline
    return found
