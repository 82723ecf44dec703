"""Generated scans as the bench of real ones has them."""

from tests.training.helpers.generated import cohort, volumes
from training.data.corpus import draw
from training.real.scans import RealScan


def real_scan(acceleration=4.0, *, seed=1, subject="a"):
    """Return a small simulated scan, about 72 rows, without a file behind it."""
    sample = draw(volumes(), cohort(seed=seed, accelerations=(acceleration,)), 0)
    size = tuple(sample.kspace.shape[-2:])
    return RealScan(
        file=f"{subject}.h5",
        subject=subject,
        slice=0,
        sample=sample,
        crop=size,
        matrix=size,
    )
