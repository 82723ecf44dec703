"""What Gadgetron's clients ask before or instead of a scan, and our answers.

The stock client asks for stored noise on a connection of its own, with a small pipeline that ends
at once and whose answer is a DEPENDENCY message. Health checks name `isalive.xml`.
"""

import numpy as np

from ..errors import ConfigError
from ..files.noise_store import Noise, NoiseStore
from ..gadgetron.xml import read
from ..mrd.image_attributes import meta_to_xml
from ..mrd.messages import Dependency

IS_ALIVE = "isalive.xml"
# Gadgets of such pipelines, and Gadgetron's own files that hold one of them.
_NOISE_SUMMARY, _DEPENDENCY_QUERY = "NoiseSummaryGadget", "DependencyQueryGadget"
_FILES = {"NoiseSummary.xml": _NOISE_SUMMARY, "gtquery.xml": _DEPENDENCY_QUERY}
_NOISE_FILE = "GadgetronNoiseCovarianceMatrix_"  # with the measurement's id behind it


def named(name: str) -> Dependency | None:
    """Return the answer to a configuration's name; None if it is no query."""
    return _answer(_FILES[name], None) if name in _FILES else None


def inline(xml: bytes, store: NoiseStore | None = None) -> Dependency | None:
    """Return the answer to a pipeline that is a query and nothing else; None if it is not."""
    try:
        document = read(xml)
    except ConfigError:
        return None  # whoever loads it will say why
    if len(document.stream) != 1 or document.writers != ("DependencyQueryWriter",):
        return None
    (node,) = document.stream
    if node.classname not in _FILES.values():
        return None
    name = node.properties.get("noise_file", "")
    asked = name.removeprefix(_NOISE_FILE) if name.startswith(_NOISE_FILE) else ""
    return _answer(node.classname, store.get(asked) if store is not None and asked else None)


def _answer(classname: str, noise: Noise | None) -> Dependency:
    if classname == _DEPENDENCY_QUERY:
        # The word for none: our store knows no names, because they are often the patient's.
        return Dependency(meta_to_xml({"NoiseDependencies": "Dummy"}))
    return Dependency(meta_to_xml({"status": "failed"} if noise is None else _statistics(noise)))


def _statistics(noise: Noise) -> dict[str, str]:
    """Say how strong the noise is; where Gadgetron gives the sum of sigmas, this is their mean."""
    sigmas = np.sqrt(noise.covariance.diagonal().real)
    return {
        "channels": str(len(sigmas)),
        "max_sigma": f"{sigmas.max():g}",
        "mean_sigma": f"{sigmas.mean():g}",
        "min_sigma": f"{sigmas.min():g}",
        "noise_dwell_time_us": f"{noise.dwell_us:g}",
        "status": "success",
    }
