"""What scanners can do: gradients, rasters and dead times, four sets of them.

They are modest, so that most machines of a kind can play what fits them; a site's own numbers take
their place. GE: Pulseq on GE v2, https://github.com/HarmonizedMRI/SequenceExamples-GE. The limits
hold for the length of the gradient vector: however a console turns the slices, no axis exceeds
them.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..errors import ConfigError

GAMMA = 42.576e6  # Hz/T
Platform = Literal["siemens", "ge", "philips", "lowfield"]
PLATFORMS: tuple[Platform, ...] = get_args(Platform)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """A scanner; times are whole microseconds, but for the raster of samples."""

    max_grad_mt_m: float
    max_slew_t_m_s: float
    rf_dead_us: int
    rf_ringdown_us: int
    adc_dead_us: int  # before a readout and after it
    grad_raster_us: int
    rf_raster_us: int
    adc_raster_us: float
    block_raster_us: int
    field_t: float
    segment_us: int = 0  # that the interpreter adds after every shot
    trid: bool = False  # shots are labelled by their kind

    def __post_init__(self) -> None:
        for name in ("max_grad_mt_m", "max_slew_t_m_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: expected more than 0, got {getattr(self, name):g}")

    @property
    def max_grad(self) -> float:
        """Return the strongest gradient in Hz/m."""
        return self.max_grad_mt_m * 1e-3 * GAMMA

    @property
    def max_slew(self) -> float:
        """Return the steepest ramp in Hz/m/s."""
        return self.max_slew_t_m_s * GAMMA

    def opts(self) -> Any:
        """Return the limits as pypulseq has them."""
        import pypulseq

        return pypulseq.Opts(
            max_grad=self.max_grad_mt_m,
            grad_unit="mT/m",
            max_slew=self.max_slew_t_m_s,
            slew_unit="T/m/s",
            rf_dead_time=self.rf_dead_us * 1e-6,
            rf_ringdown_time=self.rf_ringdown_us * 1e-6,
            adc_dead_time=self.adc_dead_us * 1e-6,
            grad_raster_time=self.grad_raster_us * 1e-6,
            rf_raster_time=self.rf_raster_us * 1e-6,
            adc_raster_time=self.adc_raster_us * 1e-6,
            block_duration_raster=self.block_raster_us * 1e-6,
            gamma=GAMMA,
            B0=self.field_t,
        )


LIMITS: dict[Platform, Limits] = {
    "siemens": Limits(
        max_grad_mt_m=28,
        max_slew_t_m_s=130,
        rf_dead_us=100,
        rf_ringdown_us=30,
        adc_dead_us=10,
        grad_raster_us=10,
        rf_raster_us=1,
        adc_raster_us=0.1,
        block_raster_us=10,
        field_t=2.89,
    ),
    "ge": Limits(
        max_grad_mt_m=33,
        max_slew_t_m_s=120,
        rf_dead_us=72,
        rf_ringdown_us=54,
        adc_dead_us=40,
        grad_raster_us=4,
        rf_raster_us=2,
        adc_raster_us=2,
        block_raster_us=4,
        field_t=3.0,
        segment_us=116,
        trid=True,
    ),
    "philips": Limits(
        max_grad_mt_m=30,
        max_slew_t_m_s=100,
        rf_dead_us=100,
        rf_ringdown_us=100,
        adc_dead_us=20,
        grad_raster_us=10,
        rf_raster_us=1,
        adc_raster_us=0.1,
        block_raster_us=10,
        field_t=3.0,
    ),
    "lowfield": Limits(
        max_grad_mt_m=20,
        max_slew_t_m_s=50,
        rf_dead_us=100,
        rf_ringdown_us=100,
        adc_dead_us=20,
        grad_raster_us=10,
        rf_raster_us=1,
        adc_raster_us=0.1,
        block_raster_us=10,
        field_t=0.05,
    ),
}
