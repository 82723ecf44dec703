"""The stock Gadgetron classes that this host knows, and what stands for them.

Only what a 2-D Cartesian pipeline uses. Our own accumulation decides when an image is complete, so
the trigger's and the buffer's properties that only say how images are bundled change nothing here;
properties that would change an image and are not implemented are refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import ConfigError

# What flows between stock nodes, in the order of a pipeline.
LINES, CROPPED, BUCKETS, BUFFERS, ARRAYS = "lines", "cropped lines", "buckets", "buffers", "arrays"
COMPLEX, FLOAT, FINAL = "complex images", "float images", "final images"
IMAGES = frozenset({COMPLEX, FLOAT, FINAL})

_LOOPS = ("", "slice", "contrast", "phase", "repetition", "set")
_BOOL = ("true", "false")
ANYWHERE = frozenset({"debug_folder", "perform_timing", "verbose", "using_cloudbus"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GadgetronClass:
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

GADGETRON_CLASSES: dict[str, GadgetronClass] = {
    "NoiseAdjustGadget": GadgetronClass(
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
    "AsymmetricEchoAdjustROGadget": GadgetronClass(takes=_takes(LINES)),
    "RemoveROOversamplingGadget": GadgetronClass(
        takes=_takes(LINES), gives=CROPPED, gadget="RemoveReadoutOversampling"
    ),
    "AcquisitionAccumulateTriggerGadget": GadgetronClass(
        takes=_takes(CROPPED),
        gives=BUCKETS,
        allowed={"trigger_dimension": _LOOPS, "sorting_dimension": _LOOPS},
        ignored=frozenset(
            {"n_acquisitions_before_trigger", "n_acquisitions_before_ongoing_trigger"}
        ),
    ),
    "FlagTriggerGadget": GadgetronClass(
        takes=_takes(CROPPED), gives=BUCKETS, ignored=frozenset({"trigger_flags"})
    ),
    "BucketToBufferGadget": GadgetronClass(
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
    "SimpleReconGadget": GadgetronClass(takes=_takes(BUFFERS), gives=ARRAYS, gadget="SimpleRecon"),
    "ImageArraySplitGadget": GadgetronClass(takes=_takes(ARRAYS), gives=COMPLEX),
    "ExtractGadget": GadgetronClass(
        takes=_takes(COMPLEX),
        gives=FLOAT,
        gadget="Extract",
        passed=frozenset({"extract_mask"} | {f"extract_{part}" for part in _EXTRACT}),
        allowed={"force_positive": ("false",)},
    ),
    "AutoScaleGadget": GadgetronClass(
        takes=_takes(FLOAT), gadget="AutoScale", passed=frozenset({"max_value"})
    ),
    "FloatToUShortGadget": GadgetronClass(
        takes=_takes(FLOAT), gives=FINAL, gadget="FloatToUShort", passed=_FIXED_POINT
    ),
    "FloatToShortGadget": GadgetronClass(
        takes=_takes(FLOAT), gives=FINAL, gadget="FloatToShort", passed=_FIXED_POINT
    ),
    "ImageFinishGadget": GadgetronClass(takes=IMAGES),
    # the host's scan record keeps what this one writes
    "IsmrmrdDumpGadget": GadgetronClass(
        takes=_takes(LINES, CROPPED),
        ignored=frozenset(
            {"file_prefix", "folder", "append_timestamp", "append_id", "save_xml_header_only"}
        ),
    ),
}
# The gadgets above that are not of our own pipelines, and the module of each.
EQUIVALENTS = {
    "TriggerFrames": "gadgetron_recon",
    "SimpleRecon": "gadgetron_recon",
    "Extract": "gadgetron_images",
    "AutoScale": "gadgetron_images",
    "FloatToUShort": "gadgetron_images",
    "FloatToShort": "gadgetron_images",
}


def properties(classname: str, given: Mapping[str, str]) -> dict[str, str]:
    """Return what our class needs of a stock gadget's properties; ConfigError lists all faults."""
    known_class = GADGETRON_CLASSES[classname]
    problems = []
    for key, value in given.items():
        allowed = known_class.allowed.get(key)
        if allowed is not None and value.lower() not in allowed:
            expected = ", ".join(repr(one) for one in allowed)
            problems.append(
                f"gadget {classname}, property {key} is {value!r}, this host knows {expected}"
            )
        elif allowed is None and key not in known_class.passed | known_class.ignored | ANYWHERE:
            known = ", ".join(
                sorted(known_class.passed | known_class.ignored | set(known_class.allowed))
            )
            problems.append(
                f"gadget {classname} has no property {key} here; it has {known or 'none'}"
            )
    if problems:
        raise ConfigError("; ".join(problems))
    return {key: value for key, value in given.items() if key in known_class.passed}


def behind(classname: str, stage: str) -> str:
    """Return what flows behind a stock gadget; ConfigError if it cannot take what comes."""
    known_class = GADGETRON_CLASSES[classname]
    if stage not in known_class.takes:
        raise ConfigError(
            f"gadget {classname} takes {' or '.join(sorted(known_class.takes))}, "
            f"but {stage} come to it"
        )
    return known_class.gives or stage
