"""Every shipped pipeline reconstructs an undersampled phantom through a host."""

from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gadgets.files.source import Source, open_source
from gadgets.host.child_host import Address
from gadgets.mrd.geometry import Geometry
from gadgets.mrd.header_layouts import Flag
from gadgets.mrd.items import Acquisition
from gadgets.scanner.client import MrdClient
from gadgets.steps.image_finish import SERIES_MASK
from mnet.masks.densities import variable_density
from mnet.masks.line_plan import LinePlan
from mnet.score.image_quality import score
from tests.gadgets.helpers.closed_loop import N_KY, N_X, coil_images, source

# NRMSE from half of the lines of a phantom with little noise, by what reconstructs it; a tenth or
# two above what is measured. A retrospective pipeline takes a quarter of the lines.
ZERO_FILLED, LINEAR, NETWORK, SPARSE, QUARTER = 0.105, 0.08, 0.065, 0.047, 0.09
WORST = {
    "adaptive_modl.xml": NETWORK,
    "adaptive_modl_retrospective.xml": QUARTER,
    "adaptive_modl_shadow.xml": NETWORK,
    "cg_sense.xml": LINEAR,
    "default.xml": ZERO_FILLED,
    "gadgetron_adaptive_modl.xml": NETWORK,
    "gadgetron_adaptive_modl_connect.xml": NETWORK,
    "gadgetron_adaptive_modl_connect_noise.xml": NETWORK,
    "gadgetron_adaptive_modl_noise.xml": NETWORK,
    "gadgetron_adaptive_modl_retrospective.xml": QUARTER,
    "l1_wavelet.xml": SPARSE,
    "zero_filled.xml": ZERO_FILLED,
}
WITHOUT_IMAGES = {"default_measurement_dependencies.xml"}  # it takes in noise


def taken(scan: Source, acceleration: float) -> list[Acquisition]:
    """Take lines of a single slice by a variable density, and end it with the last of them."""
    n_ky = Geometry.parse(scan.header).n_ky
    plan = LinePlan.of(np.ones(n_ky, bool), acceleration)
    mask = variable_density(plan, np.random.default_rng(0))
    *lines, last = (a for a in scan.acquisitions if mask[a.header["kspace_encode_step_1"]])
    header = last.header.copy()
    header["flags"] = Flag.LAST_IN_SLICE
    return [*lines, replace(last, header=header)]


def image_of(address: Address, config: str, header: bytes, lines: list[Acquisition]) -> Tensor:
    """Return the magnitude (1, x, y) that a host makes of the lines of a slice."""
    with MrdClient(address.host, address.port) as client:
        client.start(config, header)
        client.send_all(lines)
        images = client.finish()
    (image,) = (i for i in images if int(i.header["image_series_index"]) != SERIES_MASK)
    return torch.from_numpy(np.abs(image.data[0, 0]).T.astype(np.float32))[None]


def test_no_shipped_pipeline_is_left_out() -> None:
    names = {path.name for path in resources.files("xml_configs").iterdir()}
    assert set(WORST) | WITHOUT_IMAGES == {name for name in names if name.endswith(".xml")}


@pytest.mark.parametrize("config", WORST)
def test_a_shipped_pipeline_reconstructs_the_phantom(address: Address, config: str) -> None:
    scan = source(1)
    # a retrospective pipeline gets all lines, and leaves out those that are not in its mask
    lines = scan.acquisitions if "retrospective" in config else taken(scan, 2.0)
    truth = coil_images(N_X, N_KY, 0.0).abs().square().sum(0).sqrt().float()[None]
    nrmse = float(score(image_of(address, config, scan.header, lines), truth, truth).nrmse)
    print(f"{config}: NRMSE {nrmse:.4f}")
    assert nrmse < WORST[config]


@pytest.mark.parametrize("name", ["brain_t2_4ch_gpunufft", "brain_t2_4ch_agile_os"])
def test_compressed_sensing_of_a_real_brain_is_better_than_cg_sense(
    address: Address, shared: Path, name: str
) -> None:
    scan = open_source(shared / "data/raw" / f"{name}.h5")
    truth = image_of(address, "zero_filled.xml", scan.header, list(scan.acquisitions))
    lines = taken(scan, 4.0)
    errors = {
        config: float(
            score(image_of(address, config, scan.header, lines), truth, truth).nrmse.mean()
        )
        for config in ("l1_wavelet.xml", "cg_sense.xml", "zero_filled.xml")
    }
    print(name, {config: round(error, 4) for config, error in errors.items()})
    # 0.098 and 0.087; CG-SENSE has 0.128 and 0.117
    assert errors["l1_wavelet.xml"] < 0.85 * errors["cg_sense.xml"]
