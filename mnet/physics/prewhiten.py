"""Noise prewhitening: mix the coils so that their noise is uncorrelated and of equal power.

Pruessmann et al., Magn Reson Med 46:638 (2001), doi:10.1002/mrm.1241, appendix A, with the scale of
Kellman and McVeigh, Magn Reson Med 54:1439 (2005), doi:10.1002/mrm.20713, for SNR units.
"""

import math

import torch
from torch import Tensor


def noise_covariance(noise: Tensor) -> Tensor:
    """Estimate E[n n^H] from a noise scan: (coils, samples) complex to (coils, coils).

    The mean is not subtracted, as thermal noise has none, and the divisor is ``samples - 1`` as in
    Gadgetron. Raises ValueError where there are not more samples than coils, or one is not finite.
    """
    if noise.ndim != 2 or not noise.is_complex():
        raise ValueError(
            f"noise: expected complex (coils, samples), got {noise.dtype} {tuple(noise.shape)}"
        )
    return covariance_of(noise @ noise.mH, noise.shape[1])


def covariance_of(products: Tensor, samples: int) -> Tensor:
    """Return `noise_covariance` from the sum of n n^H over samples, (coils, coils) complex."""
    coils = products.shape[0]
    if samples <= coils:
        raise ValueError(f"noise: expected more samples than its {coils} coils, got {samples}")
    if not torch.isfinite(torch.view_as_real(products)).all():
        raise ValueError("noise: expected finite values, got NaN or infinity")
    return products / (samples - 1)


def whitening_matrix(covariance: Tensor, scale: float = 1.0) -> Tensor:
    """Invert the Cholesky factor: W = scale * L^-1 with L L^H the covariance, both (coils, coils).

    With scale 1 whitened noise has unit variance per complex sample; `gadgetron_scale` gives the
    scale for imaging data. Raises ValueError naming the coils that are dead or linearly dependent.
    """
    variance = covariance.diagonal().real
    dead = ", ".join(str(coil) for coil, power in enumerate(variance.tolist()) if not power > 0)
    if dead:
        raise ValueError(
            f"noise covariance: expected noise in every coil, got none in coil {dead} "
            f"of {len(variance)} (counted from 0): is it plugged in and switched on?"
        )
    # Coils may differ in gain by orders of magnitude: dependence is judged on correlations.
    deviation = variance.sqrt()
    correlation = covariance / deviation[:, None] / deviation
    factor, failed = torch.linalg.cholesky_ex(correlation)
    rounding = len(variance) * torch.finfo(variance.dtype).eps
    # What the coils before it leave of each coil's variance; without meaning where it failed.
    left = factor.diagonal().real.square().tolist()
    singular = next((coil for coil, part in enumerate(left) if not part > rounding), None)
    dependent = int(failed) - 1 if failed else singular
    if dependent is not None:
        raise ValueError(
            "noise covariance: expected a positive definite matrix, but the noise of coil "
            f"{dependent} (counted from 0) is a combination of that of the coils before it"
        )
    identity = torch.eye(len(variance), dtype=covariance.dtype, device=covariance.device)
    inverse: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
    return inverse * (scale / deviation)


def gadgetron_scale(
    acquisition_dwell_us: float, noise_dwell_us: float, bandwidth: float = 0.793
) -> float:
    """Return Gadgetron's scale, which gives unit variance in the real and in the imaginary part.

    sqrt(2 * acquisition dwell / noise dwell * bandwidth), where bandwidth is the part of the noise
    scan's sampling bandwidth that the receiver lets through (relativeReceiverNoiseBandwidth in the
    MRD header). Raises ValueError where a dwell time or the bandwidth is not positive.
    """
    if min(acquisition_dwell_us, noise_dwell_us, bandwidth) <= 0:
        raise ValueError(
            "noise scale: expected positive dwell times and bandwidth, got "
            f"{acquisition_dwell_us} us, {noise_dwell_us} us and {bandwidth}"
        )
    return math.sqrt(2 * acquisition_dwell_us / noise_dwell_us * bandwidth)


def scale_for(
    acquisition_dwell_us: float, noise_dwell_us: float, bandwidth: float = 0.793
) -> float:
    """Return `gadgetron_scale`, or 1 where a dwell time is not known, which is 0 or below."""
    if min(acquisition_dwell_us, noise_dwell_us) <= 0:
        return 1.0
    return gadgetron_scale(acquisition_dwell_us, noise_dwell_us, bandwidth)


def apply(matrix: Tensor, data: Tensor, dim: int = 0) -> Tensor:
    """Multiply the coil axis `dim` of data by a (coils, coils) matrix; other axes are free."""
    if matrix.shape[-1] != data.shape[dim]:
        raise ValueError(f"matrix is for {matrix.shape[-1]} coils, data has {data.shape[dim]}")
    mixed: Tensor = torch.tensordot(matrix, data, dims=([1], [dim]))
    return mixed.movedim(0, dim)
