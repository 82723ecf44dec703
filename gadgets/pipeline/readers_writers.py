"""The stock readers and writers of a pipeline's XML, and what each of them lets in or out."""

from ..mrd.items import Acquisition, Image, Waveform
from ..mrd.messages import Dependency, Text

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
