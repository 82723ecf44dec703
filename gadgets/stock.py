"""The stock Gadgetron classes that this host knows, and what stands for them.

Only what a 2-D Cartesian pipeline uses. Our own accumulation decides when an image is complete, so
the trigger's and the buffer's properties that only say how images are bundled change nothing here;
properties that would change an image and are not implemented are refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import ConfigError
from .items import Acquisition, Image, Waveform
from .message import Dependency, Text

LIBRARIES = ("gadgetron_mricore", "gadgetron_core_readers", "gadgetron_core_writers")
READERS: dict[str, type] = {
    "AcquisitionReader": Acquisition,
    "GadgetIsmrmrdAcquisitionMessageReader": Acquisition,
    "WaveformReader": Waveform,
    "GadgetIsmrmrdWaveformMessageReader": Waveform,
    "ImageReader": Image,
    "MRIImageReader": Image,
    "TextReader": Text,
}
WRITERS: dict[str, type] = {
    "ImageWriter": Image,
    "MRIImageWriter": Image,
    "AcquisitionWriter": Acquisition,
    "GadgetIsmrmrdAcquisitionMessageWriter": Acquisition,
    "WaveformWriter": Waveform,
    "GadgetIsmrmrdWaveformMessageWriter": Waveform,
    "TextWriter": Text,
    "DependencyQueryWriter": Dependency,
}

# What flows between stock nodes, in the order of a pipeline.
LINES, CROPPED, BUCKETS, BUFFERS, ARRAYS = "lines", "cropped lines", "buckets", "buffers", "arrays"
COMPLEX, FLOAT, FINAL = "complex images", "float images", "final images"
IMAGES = frozenset({COMPLEX, FLOAT, FINAL})

_LOOPS = ("", "slice", "contrast", "phase", "repetition", "set")
_BOOL = ("true", "false")
_ANYWHERE = frozenset({"debug_folder", "perform_timing", "verbose", "using_cloudbus"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """One stock gadget."""

    takes: frozenset[str]
    gives: str | None = None  # None: what it took
    gadget: str | None = None  # our class, None where nothing is left to do
    passed: frozenset[str] = frozenset()  # properties that our class has too
    allowed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # values that are right
    ignored: frozenset[str] = frozenset()  # properties that no image depends on


def _takes(*stages: str) -> frozenset[str]:
    return frozenset(stages)


_FIXED_POINT = frozenset({"max_intensity", "min_intensity", "intensity_offset"})
_EXTRACT = frozenset({"magnitude", "real", "imag", "phase"})

STOCK: dict[str, Stock] = {
    "NoiseAdjustGadget": Stock(
        takes=_takes(LINES),
        gadget="NoiseAdjust",
        allowed={
            "perform_noise_adjust": ("true",),
            "noise_dwell_time_us_preset": ("", "0", "0.0"),
            "scale_only_channels_by_name": ("",),
        },
        # channels that do not conform always end the scan here
        ignored=frozenset(
            {"noise_dependency_prefix", "noise_dependency_folder", "pass_nonconformant_data"}
        ),
    ),
    # The echo is centred by our readout transform. Gadgetron pads it, removes the oversampling, by
    # which signal gets into the padding, and then leaves the padding out of its buffer: its images
    # of asymmetric echoes differ from the transform of the measured samples by some percent.
    "AsymmetricEchoAdjustROGadget": Stock(takes=_takes(LINES)),
    "RemoveROOversamplingGadget": Stock(
        takes=_takes(LINES), gives=CROPPED, gadget="RemoveReadoutOversampling"
    ),
    "AcquisitionAccumulateTriggerGadget": Stock(
        takes=_takes(CROPPED),
        gives=BUCKETS,
        allowed={"trigger_dimension": _LOOPS, "sorting_dimension": _LOOPS},
        ignored=frozenset(
            {"n_acquisitions_before_trigger", "n_acquisitions_before_ongoing_trigger"}
        ),
    ),
    "FlagTriggerGadget": Stock(
        takes=_takes(CROPPED), gives=BUCKETS, ignored=frozenset({"trigger_flags"})
    ),
    "BucketToBufferGadget": Stock(
        takes=_takes(BUCKETS),
        gives=BUFFERS,
        gadget="TriggerFrames",
        allowed={
            "N_dimension": _LOOPS,
            "S_dimension": _LOOPS,
            "split_slices": _BOOL,
            "ignore_segment": _BOOL,  # segments are always one image
        },
    ),
    "SimpleReconGadget": Stock(takes=_takes(BUFFERS), gives=ARRAYS, gadget="SimpleRecon"),
    "ImageArraySplitGadget": Stock(takes=_takes(ARRAYS), gives=COMPLEX),
    "ExtractGadget": Stock(
        takes=_takes(COMPLEX),
        gives=FLOAT,
        gadget="Extract",
        passed=frozenset({"extract_mask"} | {f"extract_{part}" for part in _EXTRACT}),
        allowed={"force_positive": ("false",)},
    ),
    "AutoScaleGadget": Stock(
        takes=_takes(FLOAT), gadget="AutoScale", passed=frozenset({"max_value"})
    ),
    "FloatToUShortGadget": Stock(
        takes=_takes(FLOAT), gives=FINAL, gadget="FloatToUShort", passed=_FIXED_POINT
    ),
    "FloatToShortGadget": Stock(
        takes=_takes(FLOAT), gives=FINAL, gadget="FloatToShort", passed=_FIXED_POINT
    ),
    "ImageFinishGadget": Stock(takes=IMAGES),
    # the host's scan record keeps what this one writes
    "IsmrmrdDumpGadget": Stock(
        takes=_takes(LINES, CROPPED),
        ignored=frozenset(
            {"file_prefix", "folder", "append_timestamp", "append_id", "save_xml_header_only"}
        ),
    ),
}
# The gadgets above that are not of our own pipelines, and the module of each.
EQUIVALENTS = {
    "TriggerFrames": "stock_recon",
    "SimpleRecon": "stock_recon",
    "Extract": "stock_images",
    "AutoScale": "stock_images",
    "FloatToUShort": "stock_images",
    "FloatToShort": "stock_images",
}


def properties(classname: str, given: Mapping[str, str]) -> dict[str, str]:
    """Return what our class needs of a stock gadget's properties; ConfigError lists all faults."""
    stock = STOCK[classname]
    problems = []
    for key, value in given.items():
        allowed = stock.allowed.get(key)
        if allowed is not None and value.lower() not in allowed:
            expected = ", ".join(repr(one) for one in allowed)
            problems.append(
                f"gadget {classname}, property {key} is {value!r}, this host knows {expected}"
            )
        elif allowed is None and key not in stock.passed | stock.ignored | _ANYWHERE:
            known = ", ".join(sorted(stock.passed | stock.ignored | set(stock.allowed)))
            problems.append(
                f"gadget {classname} has no property {key} here; it has {known or 'none'}"
            )
    if problems:
        raise ConfigError("; ".join(problems))
    return {key: value for key, value in given.items() if key in stock.passed}


def behind(classname: str, stage: str) -> str:
    """Return what flows behind a stock gadget; ConfigError if it cannot take what comes."""
    stock = STOCK[classname]
    if stage not in stock.takes:
        raise ConfigError(
            f"gadget {classname} takes {' or '.join(sorted(stock.takes))}, but {stage} come to it"
        )
    return stock.gives or stage
