import pytest
import torch

from mnet.masks.line_plan import LinePlan
from mnet.physics import sense
from mnet.recon.unet import UNet, UNetReconstructor
from training.data.corpus import Sample
from training.masks.atoms import atom_loss, brightest_rows, line_atoms, line_image, unet_loss
from training.masks.icd import line_gradient


def random_complex(*shape: int, seed: int, dtype: torch.dtype = torch.complex128) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def awake_unet(dtype: torch.dtype, seed: int = 0) -> UNet:
    """Return a U-Net that does change images, unlike a fresh one."""
    torch.manual_seed(seed)
    unet = UNet(4, 2)
    torch.nn.init.normal_(unet.out.weight, std=0.3)
    return unet.to(dtype).eval().requires_grad_(False)


def small_sample(n_ky: int = 40) -> Sample:
    kspace = random_complex(3, 24, n_ky, seed=1, dtype=torch.complex64)
    csm = random_complex(3, 24, n_ky, seed=2, dtype=torch.complex64)
    return Sample(
        kspace=kspace,
        clean=kspace,
        csm=csm / csm.abs().square().sum(0).sqrt(),
        acquirable=torch.ones(n_ky, dtype=torch.bool).numpy(),
        acceleration=4.0,
    )


@pytest.mark.parametrize("n_ky", [8, 33, 70])
def test_atoms_add_up_to_the_adjoint_of_any_mask(n_ky):
    kspace, csm = random_complex(3, 6, n_ky, seed=3), random_complex(3, 6, n_ky, seed=4)
    masks = (torch.rand(5, n_ky, generator=torch.Generator().manual_seed(5)) < 0.4).double()
    masks[0] = torch.linspace(0, 1, n_ky)  # a soft mask too
    image = line_image(line_atoms(kspace, csm), masks)
    expected = sense.adjoint(kspace, csm, masks)
    got = torch.view_as_complex(image.permute(0, 2, 3, 1).contiguous())
    assert torch.allclose(got, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


def test_moving_a_line_is_one_subtraction_and_one_addition():
    atoms = line_atoms(random_complex(2, 5, 12, seed=6), random_complex(2, 5, 12, seed=7))
    before = torch.zeros(1, 12, dtype=torch.float64)
    before[0, [2, 5, 9]] = 1
    after = before.clone()
    after[0, [5, 11]] = torch.tensor([0.0, 1.0], dtype=torch.float64)
    moved = line_image(atoms, before)[0] - atoms[5] + atoms[11]
    assert torch.allclose(line_image(atoms, after)[0], moved, rtol=0, atol=1e-12)


def test_the_loss_is_that_of_the_reconstructor():
    sample, model = small_sample(), UNetReconstructor(4, 2)
    model.unet.load_state_dict(awake_unet(torch.float32).state_dict())
    loss = atom_loss(sample, model.unet)
    masks = (torch.rand(4, 40, generator=torch.Generator().manual_seed(8)) < 0.5).float()
    truth = sense.adjoint(sample.kspace, sample.csm, torch.ones(40))
    with torch.no_grad():
        image = model(sample.kspace, sample.csm, masks)
        expected = (image - truth).abs().square().sum((-2, -1)).sqrt() / truth.norm()
        assert torch.allclose(loss(masks), expected, rtol=1e-4)


def test_a_fully_sampled_mask_has_no_loss_and_an_empty_one_loses_all():
    atoms = line_atoms(random_complex(2, 6, 10, seed=9), random_complex(2, 6, 10, seed=10))
    untrained = UNet(4, 2).double().requires_grad_(False)
    losses = unet_loss(atoms, untrained)(torch.tensor([[1.0] * 10, [0.0] * 10]))
    assert float(losses[0]) < 1e-12
    assert float(losses[1]) == pytest.approx(1.0)


def test_the_gradient_along_a_line_is_the_slope_of_the_loss():
    atoms = line_atoms(random_complex(2, 8, 16, seed=11), random_complex(2, 8, 16, seed=12))
    inner = unet_loss(atoms, awake_unet(torch.float64))
    mask = torch.arange(16).remainder(3).eq(0).double()
    slope = line_gradient(inner, mask.bool().numpy())
    for row in range(16):
        step = torch.zeros(16, dtype=torch.float64)
        step[row] = 1e-6
        low, high = inner(torch.stack([mask - step, mask + step]))
        assert slope[row] == pytest.approx(float(high - low) / 2e-6, rel=1e-3, abs=1e-7)


def test_a_band_keeps_the_brightest_rows_and_the_central_columns():
    sample = small_sample()
    image = torch.zeros(24, 40)
    image[7:11] = 1
    assert brightest_rows(image, 4) == slice(7, 11)
    assert brightest_rows(image, 99) == slice(0, 24)
    full = sense.adjoint(sample.kspace, sample.csm, torch.ones(40))
    rows = brightest_rows(full, 8)
    untrained, plan = UNet(4, 2), LinePlan.of(sample.acquirable, 4.0)
    mask = torch.from_numpy(plan.calibration).float()[None]
    loss = atom_loss(sample, untrained, n_rows=8, n_columns=20)(mask)
    zero_filled = sense.adjoint(sample.kspace, sample.csm, mask[0])
    error = (zero_filled - full)[rows, 10:30].norm() / full[rows, 10:30].norm()
    assert float(loss.detach()) == pytest.approx(float(error), rel=1e-4)
