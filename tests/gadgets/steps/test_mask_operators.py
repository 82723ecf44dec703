"""A mask is due at once: how many operators of torch its decision takes."""

import pytest
from torch.profiler import ProfilerActivity, profile

from gadgets.mrd.geometry import Geometry
from gadgets.mrd.items import Mask
from gadgets.pipeline.chain import run
from gadgets.pipeline.models import Models
from gadgets.pipeline.scan import Scan
from gadgets.steps import predict_mask
from gadgets.steps.predict_mask import PredictMask
from gadgets.steps.readout import RemoveReadoutOversampling
from tests.gadgets.helpers.closed_loop import source

MOST = 300  # outermost ones; with torch instead of NumPy in the features it was 433


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    decide = PredictMask._decide

    def counted(self: PredictMask, *arguments: object) -> Mask:
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            mask = decide(self, *arguments)  # type: ignore[arg-type]
        events = [e for e in profiled.events() or [] if e.name.startswith("aten::")]
        outer = [e for e in events if not (e.cpu_parent and e.cpu_parent.name.startswith("aten"))]
        found.append(len(outer))
        return mask

    monkeypatch.setattr(PredictMask, "_decide", counted)
    return found


def test_a_decision_takes_few_operators(counts: list[int]) -> None:
    one = source(2)
    scan = Scan(geometry=Geometry.parse(one.header), models=Models())
    run((RemoveReadoutOversampling(), PredictMask(mode="shadow")), scan, one.acquisitions)
    assert counts[1] <= MOST


def test_coil_features_are_computed_once_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    one, n_calls = source(1), 0
    scan = Scan(geometry=Geometry.parse(one.header), models=Models())
    gadget = PredictMask(mode="shadow", sampler="mnet_experts")
    gadget.warm(scan)
    features = predict_mask.coil_features

    def counted(*arguments: object) -> object:
        nonlocal n_calls
        n_calls += 1
        return features(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(predict_mask, "coil_features", counted)
    monkeypatch.setattr(PredictMask, "_rehearse", lambda *_: None)
    items = run((RemoveReadoutOversampling(), gadget), scan, one.acquisitions)
    (mask,) = [item for item in items if isinstance(item, Mask)]
    assert mask.choice
    assert n_calls == 1
