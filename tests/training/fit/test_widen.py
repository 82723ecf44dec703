from pathlib import Path

import pytest
import torch

from mnet.recon.modl import MoDL
from tests.mnet.helpers.small_problems import problem, trained_looking
from training.config import read_config
from training.data.sources import TABLE
from training.fit.train_recon import Config
from training.fit.widen import widened
from training.study.study import read_study

CONFIGS = TABLE.parents[1] / "configs"


@pytest.mark.parametrize(("before", "after"), [(4, 6), (4, 8), (3, 7)])
def test_a_wider_network_computes_what_the_narrow_one_does(before, after):
    narrow = trained_looking(MoDL(before, 2, 3))
    wide = widened(narrow, after).eval()
    assert wide.config["n_channels"] == after
    kspace, csm, mask = problem(16, 20)
    with torch.no_grad():
        torch.testing.assert_close(
            wide(kspace, csm, mask), narrow(kspace, csm, mask), rtol=1e-4, atol=1e-4
        )


def test_what_is_new_in_it_learns():
    wide = widened(trained_looking(MoDL(4, 2, 2)), 8).train()
    kspace, csm, mask = problem(16, 16)
    wide(kspace, csm, mask).abs().square().sum().backward()
    gradient = wide.denoiser.out.weight.grad
    assert gradient is not None
    assert gradient[:, 4:].abs().min() > 0  # towards the channels that nothing looked at


def test_a_network_does_not_become_narrower():
    with pytest.raises(ValueError, match="4 channels, expected more than the 8 there are"):
        widened(MoDL(8, 1, 1), 4)


def test_the_large_network_learns_from_the_scans_of_the_open_study_and_no_others():
    config, study = (
        read_config(Config, CONFIGS / "large_modl.json"),
        read_study(CONFIGS / "open.json"),
    )
    assert set(config.cohorts) == set(study.base)
    assert set(config.validation) == set(study.folds[study.deployed].validation)
    assert Path(config.scans) == study.folder / "scans"
