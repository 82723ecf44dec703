"""Which gadgets a pipeline may name: ours, and those of a site's own folder."""

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import ConfigError
from ..gadgetron import classes as gadgetron_classes
from .gadget import Gadget
from .own_files import SourceFile

GADGETS = {
    "NoiseAdjust": "noise_adjust",
    "RemoveReadoutOversampling": "readout",
    "PredictMask": "predict_mask",
    "AccumulateFrame": "accumulate",
    "CoilMaps": "coil_maps",
    "Reconstruct": "reconstruct",
    "ImageFinish": "image_finish",
}
STEPS = GADGETS | gadgetron_classes.EQUIVALENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnGadget:
    """A gadget of a site."""

    kind: type[Gadget]
    file: SourceFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """The gadgets that XML may name: ours by `Class`, a site's by `file.Class` or `Class`."""

    own: Mapping[str, OwnGadget] = field(default_factory=dict)  # by `file.Class`
    files: tuple[SourceFile, ...] = ()  # that they come from

    def kind(self, name: str) -> type[Gadget]:
        """Return the class of a gadget that XML names; ConfigError lists those that there are."""
        if name in GADGETS:
            return step(name)
        for full, own in self.own.items():
            if name in (full, own.kind.__name__):
                return own.kind
        known = ", ".join([*GADGETS, *self.own])
        raise ConfigError(f"unknown gadget class {name!r}, expected one of {known}")

    def hashes(self, gadgets: Iterable[Gadget]) -> dict[str, str]:
        """Return the sha256 of the file of every gadget that is a site's own, by `file.Class`."""
        kinds = {type(gadget) for gadget in gadgets}
        return {name: own.file.sha256 for name, own in self.own.items() if own.kind in kinds}


OURS = Catalogue()


def step(name: str) -> type[Gadget]:
    """Import one of our gadgets, or of those that stand for Gadgetron's, by its class's name."""
    module = importlib.import_module(f"gadgets.steps.{STEPS[name]}")
    kind: type[Gadget] = getattr(module, name)
    return kind
