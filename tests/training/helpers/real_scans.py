"""Generated scans as the bench of real ones has them."""

from tests.training.helpers.generated import cohort, volumes
from training.data.corpus import draw
from training.real.scans import RealScan


def real_scan(acceleration=4.0, *, seed=1, subject="a"):
    """Return a small whole scan of several coils, simulated, without a file behind it."""
    described = cohort(seed=seed, accelerations=(acceleration,))
    drawn = (draw(volumes(), described, number) for number in range(50))
    whole = (s for s in drawn if s.acquirable.all() and not s.folded)
    sample = next(s for s in whole if s.kspace.shape[0] >= 4)
    size = tuple(sample.kspace.shape[-2:])
    return RealScan(
        file=f"{subject}.h5",
        subject=subject,
        slice=0,
        sample=sample,
        crop=size,
        matrix=size,
    )
