"""`training.evaluate` and `mnet scan` have the same k-space of a file, so the same figures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gadgets.files.mrd_hdf5 import write_mrd
from gadgets.files.source import open_source
from gadgets.scanner.adaptive_scan import _volume, acquirable_rows, fully_sampled, plan_lines
from mnet.masks.densities import variable_density
from mnet.score import comparison
from mnet.score.comparison import Volume
from tests.gadgets.helpers import synthetic
from training.data.volume import read_volume
from training.table.evaluate_files import _kspace, _plan


def both(path: Path, acceleration: float = 4.0) -> tuple[Volume, Volume]:
    """Return the first slice of a file as `mnet scan` has it, and as `training.evaluate` has it."""
    source = open_source(path)
    plan = plan_lines(acquirable_rows(source), acceleration)
    scanned = _volume(fully_sampled(source)[:1], plan, source)
    volume = read_volume(path)
    kspace, _ = _kspace(volume, None)
    evaluated = _plan(volume, kspace[:1], acceleration, torch.device("cpu"))
    return scanned, evaluated


def nrmse(volume: Volume) -> float:
    """Return the error of CG-SENSE with one mask of the volume's plan."""
    mask = variable_density(volume.plan, np.random.default_rng(3))[None]
    masks = {"one": [mask]}
    (row,) = comparison.compare(volume, masks, None, methods=["cg_sense"])
    return float(row["nrmse"])


def assert_agree(path: Path) -> None:
    scanned, evaluated = both(path)
    np.testing.assert_array_equal(scanned.plan.acquirable, evaluated.plan.acquirable)
    assert (scanned.crop, scanned.matrix) == (evaluated.crop, evaluated.matrix)
    assert abs(nrmse(scanned) - nrmse(evaluated)) < 1e-3


@pytest.mark.parametrize(
    "name",
    [
        "brain_pd_16ch_pulseq",
        "brain_t1_sag_1ch_larson",
        "brain_t2_4ch_agile_os",
        "brain_t2_4ch_gpunufft",
        "phantom_16ch_cloudmr",
        "phantom_16ch_pulseq",
        "phantom_1ch_7t_pulseq",
        "phantom_2ch_pulseq_lowsnr",
        "phantom_2ch_siemens_gre",
        "phantom_2ch_siemens_gre_2rep",
    ],
)
def test_real_files_have_one_nrmse_in_scan_and_evaluate(shared: Path, name: str) -> None:
    assert_agree(shared / "data/raw" / f"{name}.h5")


@pytest.mark.parametrize("with_noise", [True, False])
def test_a_noise_scan_whitens_alike_and_nothing_else_does(tmp_path: Path, with_noise: bool) -> None:
    one = synthetic.scanned(n_x=32, n_ky=64, n_coils=3)
    rng = np.random.default_rng(1)
    lines = []
    for line in one.lines():
        white = rng.normal(size=(2, *line.data.shape))
        data = line.data + 0.01 * (white[0] + 1j * white[1]).astype(np.complex64)
        lines.append(synthetic.acquisition(data, kspace_encode_step_1=len(lines)))
    readouts = [synthetic.noise(3)] if with_noise else []
    write_mrd(tmp_path / "scan.h5", one.header, [*readouts, *lines])
    assert_agree(tmp_path / "scan.h5")
    scanned, evaluated = both(tmp_path / "scan.h5")
    ratio = scanned.kspace[evaluated.kspace != 0] / evaluated.kspace[evaluated.kspace != 0]
    assert float((ratio - ratio.mean()).abs().max() / ratio.abs().mean()) < 1e-3
