import os

import pytest
import torch

from tests.benchmarks import bench_modl


@pytest.fixture(scope="session")
def device() -> str:
    """The GPU. MNET_GPU_TESTS=cpu lets the checks themselves run where there is none."""
    name = os.environ.get("MNET_GPU_TESTS", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return name


@pytest.fixture(scope="session")
def a_slice() -> bench_modl.Slice:
    """A simulated head, 15 coils, 320 x 368 of an oversampled readout."""
    return bench_modl.make(n_x=160, n_ky=184)
