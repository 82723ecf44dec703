"""Line atoms: the zero-filled image of any mask of a scan, without a Fourier transform.

Zero filling is linear in the mask m. With B_k the coil-combined image of line k alone,

    u(m) = sum_k m_k B_k,    B_k = sum_c conj(S_c) F_y^H (column k of coil c),

so that a candidate of a search is u - B_i + B_j, and the slope of any loss along line k is
Re <dL/du, B_k>. Atoms are real, real and imaginary part as two channels, because that is what a
U-Net reads: a batch of masks becomes a batch of its inputs by one matrix product.
"""

import torch
from torch import Tensor, nn

from mnet.physics import sense
from mnet.physics.fourier import inverse_fourier
from training.data.corpus import Sample
from training.masks.icd import Loss


def line_atoms(kspace: Tensor, csm: Tensor) -> Tensor:
    """Return the images of single lines (ky, 2, x, y), from hybrid k-space (coils, x, ky).

    One line is a plane wave along y, so no transform is needed: at every x, the maps times the
    line. Atoms take ky / coils times the memory of the k-space: 350 MB for 320 x 368.
    """
    n_x, n_ky = kspace.shape[-2:]
    waves = inverse_fourier(torch.eye(n_ky, dtype=kspace.dtype), dim=-1)  # (ky, y)
    atoms = torch.empty(n_ky, 2, n_x, n_ky, dtype=kspace.real.dtype)
    for block in torch.arange(n_ky).split(32):
        image = torch.einsum("cxy,cxk->kxy", csm.conj(), kspace[..., block])
        image = image * waves[block][:, None]
        atoms[block] = torch.view_as_real(image).permute(0, 3, 1, 2)
    return atoms


def line_image(atoms: Tensor, masks: Tensor) -> Tensor:
    """Return the zero-filled images (batch, 2, x, y) of masks (batch, ky), which may be soft."""
    return (masks @ atoms.flatten(1)).unflatten(-1, atoms.shape[1:])


def brightest_rows(image: Tensor, n_rows: int) -> slice:
    """Return the `n_rows` neighbouring rows of an image (x, y) with the most energy."""
    energy = image.abs().square().sum(-1)
    n = min(n_rows, energy.numel())
    start = int(energy.unfold(0, n, 1).sum(-1).argmax())
    return slice(start, start + n)


def atom_loss(
    sample: Sample, unet: nn.Module, n_rows: int | None = None, n_columns: int | None = None
) -> Loss:
    """Return the loss of masks for a scan whose zero-filled image a U-Net corrects.

    The relative L2 error against the image of all lines with the same maps. No output is scaled by
    its own maximum: that would reward an error at the brightest pixel, and is not differentiable
    there. `n_rows` keeps a band of rows, `n_columns` the central columns.
    """
    full = sense.adjoint(sample.kspace, sample.csm, torch.ones(sample.kspace.shape[-1]))
    rows = brightest_rows(full, n_rows or full.shape[0])
    n_y = full.shape[1]
    n = min(n_columns or n_y, n_y)
    columns = slice((n_y - n) // 2, (n_y - n) // 2 + n)
    atoms = line_atoms(sample.kspace[:, rows], sample.csm[:, rows])[..., columns].contiguous()
    return unet_loss(atoms, unet)


def unet_loss(atoms: Tensor, unet: nn.Module) -> Loss:
    """Return the loss of masks under image + unet(image), from line atoms (ky, 2, x, y)."""
    truth = atoms.sum(0)
    norm = truth.square().sum().sqrt()

    def loss(masks: Tensor) -> Tensor:
        image = line_image(atoms, masks.to(atoms.dtype))
        return (image + unet(image) - truth).square().sum((-3, -2, -1)).sqrt() / norm

    return loss
