import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gadgets.mask.messages import Bye, Hello, MaskMessage, Message, Nack, Scope, Welcome
from gadgets.mask.recon_end import ReconLink
from gadgets.mrd.header_layouts import Flag
from gadgets.mrd.items import Acquisition, Frame, Item, Mask, PreScan
from gadgets.pipeline.chain import run
from gadgets.pipeline.models import Models
from gadgets.pipeline.scan import Scan
from gadgets.steps.accumulate import AccumulateFrame
from gadgets.steps.coil_maps import CoilMaps
from gadgets.steps.noise_adjust import NoiseAdjust
from gadgets.steps.predict_mask import PredictMask
from gadgets.steps.readout import RemoveReadoutOversampling
from mnet.masks.densities import low_pass
from mnet.masks.family import family
from mnet.masks.line_plan import Bool, LinePlan, budget, centre_block, n_calibration
from mnet.physics.coil_maps import coil_maps
from mnet.sampler.experts import MNetExperts
from mnet.sampler.features import features
from mnet.sampler.guard_numbers import NAMES
from mnet.sampler.mnet import mask_of
from mnet.sampler.mnet_select import MNetSelect
from tests.gadgets.helpers.synthetic import Fixed, Scanned, changed, scanned

N_KY = 64
ONE = scanned(n_x=16, n_ky=N_KY, n_coils=2, n_slices=3)
BUDGET = budget(N_KY, 4)  # 16, of which 8 are calibration
CALIBRATION = list(range(28, 36))
TOKEN = "5b0c3a52-8d5c-4a39-9d0e-2f4f1ad5c0aa"


class Reader(MNetSelect):
    """Scores rows by where the calibration lines have their energy: no two slices are alike."""

    def forward(self, z: Tensor, lines: LinePlan, coils: Tensor) -> Tensor:
        assert z.shape[:2] == (1, 3)
        assert z.shape[-1] == lines.calibration.sum()
        energy = z[:, 2].sum(1)
        pitch = (energy * torch.arange(energy.shape[1])).sum(1) / energy.sum(1)
        return torch.cos(10 * pitch * torch.arange(lines.acquirable.size))[None]

    def decide(self, z: Tensor, plan: LinePlan, coils: Tensor) -> list[tuple[Bool, str]]:
        mask = mask_of(self(z, plan, coils)[0], plan)
        return [(mask, "")]  # it does not choose among vetted masks


NET = Reader(n_channels=4, n_embedding=8)


class Broken(nn.Module):
    """A net that fails as torch does, or gives NaN."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.population = NET.population

    def forward(self, z: Tensor, lines: LinePlan, coils: Tensor) -> Tensor:
        if self.error is not None:
            raise self.error
        return torch.full((1, lines.acquirable.size), torch.nan)


class Undecided(MNetSelect):
    """A sampler that fails when it chooses among vetted masks, or promises NaN."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(n_channels=4, n_embedding=8)
        self.error = error

    def relative_losses(self, z: Tensor, plan: LinePlan, coils: Tensor) -> Tensor:
        if self.error is not None:
            raise self.error
        return super().relative_losses(z, plan, coils) * torch.nan


def hello(**changes: Any) -> Hello:
    """Return what a sequence says that differs from what the header would give: 20 lines."""
    calibration = tuple(range(27, 37))
    values: dict[str, Any] = {
        "scan_token": TOKEN,
        "ky_min": 0,
        "ky_max": N_KY - 1,
        "center": N_KY // 2,
        "acquirable": tuple(range(4, 60)),
        "calibration": calibration,
        "n_lines": 20,
        "repetition": "each",
        "fallback": tuple(sorted((*calibration, *range(4, 24, 2)))),
        "deadline_ms": 100.0,
    }
    return Hello(**(values | changes))


class Channel(ReconLink):
    """The real session of a reconstruction, with a sequence that only listens."""

    def __init__(self, said: Hello | None = None, token: str | None = TOKEN) -> None:
        self.sent: list[Message] = []
        super().__init__(token, self.sent.append)
        if said is not None:
            self.receive(said)
            self.receive(Welcome(scan_token=TOKEN, paired=True, ready=True, reason=""))

    @property
    def masks(self) -> list[MaskMessage]:
        return [message for message in self.sent if isinstance(message, MaskMessage)]


def scan_of(one: Scanned = ONE, net: nn.Module = NET, **services: Any) -> Scan:
    return Scan(geometry=one.geometry, models=Fixed(mnet_select=net), **services)


def predict(
    items: Iterable[Item], scan: Scan | None = None, **properties: Any
) -> tuple[list[PreScan], list[Mask], list[Acquisition]]:
    out = run((PredictMask(**properties),), scan or scan_of(), list(items))
    return (
        [item for item in out if isinstance(item, PreScan)],
        [item for item in out if isinstance(item, Mask)],
        [item for item in out if isinstance(item, Acquisition)],
    )


def counters_of(lines: Iterable[Acquisition]) -> list[int]:
    return [int(line.header["kspace_encode_step_1"]) for line in lines]


def calibration_first(slice_: int = 0, **fields: Any) -> list[Acquisition]:
    rest = [c for c in range(N_KY) if c not in CALIBRATION]
    return ONE.lines(slice_, CALIBRATION + rest, **fields)


def shuffled(slice_: int = 0, seed: int = 0, **fields: Any) -> list[Acquisition]:
    order = np.random.default_rng(seed).permutation(N_KY)
    return ONE.lines(slice_, order.tolist(), **fields)


def expected(calibration: list[int], n_lines: int, acquirable: Iterable[int]) -> list[int]:
    """Compute the mask of slice 0 from its calibration lines, without the gadget."""
    lines = LinePlan(
        acquirable=np.isin(np.arange(N_KY), list(acquirable)),
        calibration=np.isin(np.arange(N_KY), calibration),
        n_lines=n_lines,
        center=N_KY // 2,
    )
    hybrid = torch.from_numpy(ONE.hybrid()[:, :, calibration].astype(np.complex64))
    with torch.no_grad():
        logits = NET(features(hybrid)[None], lines, 2)
    return np.flatnonzero(mask_of(logits, lines)).tolist()


ORDERS = {
    "calibration first": calibration_first(),
    "ascending": ONE.lines(),
    "descending": ONE.lines()[::-1],
    "shuffled": shuffled(),
    "calibration last": calibration_first()[::-1],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mode", ["prospective", "retrospective", "shadow"])
def test_a_prescan_holds_the_calibration_lines_and_no_other(mode: str, order: str) -> None:
    ((prescan,), (mask,), _) = predict(ORDERS[order], mode=mode)
    assert prescan.counters.tolist() == CALIBRATION
    np.testing.assert_allclose(prescan.lines, ONE.hybrid()[:, :, CALIBRATION], atol=1e-5)
    assert mask.key == prescan.key
    assert not np.shares_memory(prescan.lines, ORDERS[order][0].data)


@pytest.mark.parametrize("order", ORDERS)
def test_the_mask_is_what_the_net_says_of_the_calibration_lines(order: str) -> None:
    (_, (mask,), _) = predict(ORDERS[order], mode="shadow")
    assert mask.counters.tolist() == expected(CALIBRATION, BUDGET, range(N_KY))
    assert mask.reason == "predicted"
    assert mask.model == "0123abcd" * 2
    assert mask.seconds > 0


@pytest.mark.parametrize("acceleration", [1.0, 2.0, 3.7, 4.0, 8.0])
@pytest.mark.parametrize("basis", ["acquirable", "encoded"])
def test_a_mask_has_exactly_its_budget_with_the_calibration_in_it(
    acceleration: float, basis: str
) -> None:
    one = scanned(n_x=16, n_ky=N_KY, n_coils=2, ky_min=3, ky_max=50, center=32)
    (_, (mask,), _) = predict(
        one.lines(), scan_of(one), mode="shadow", acceleration=acceleration, basis=basis
    )
    n_rows = 48 if basis == "acquirable" else N_KY
    n_lines = min(budget(n_rows, acceleration), 48)
    assert mask.counters.size == n_lines
    acquirable = np.isin(np.arange(N_KY), range(3, 51))
    block = centre_block(acquirable, n_calibration(n_lines), 32)
    assert set(np.flatnonzero(block).tolist()) <= set(mask.counters.tolist())
    assert set(mask.counters.tolist()) <= set(range(3, 51))
    assert mask.counters.tolist() == sorted(mask.counters.tolist())


def test_counters_are_those_of_the_wire_whatever_the_rows() -> None:
    one = scanned(n_x=16, n_ky=N_KY, n_coils=2, ky_min=10, ky_max=60, center=40)
    ((prescan,), (mask,), _) = predict(one.lines(), scan_of(one), mode="shadow")
    assert 40 in prescan.counters
    assert set(prescan.counters.tolist()) <= set(mask.counters.tolist()) <= set(range(10, 61))


@pytest.mark.parametrize("seed", range(3))
def test_the_prediction_does_not_see_other_lines(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def replaced(line: Acquisition) -> Acquisition:
        if int(line.header["kspace_encode_step_1"]) in CALIBRATION:
            return line
        return replace(line, data=rng.normal(size=line.data.shape).astype(np.complex64) * 1e3)

    ((a,), (one,), _) = predict(ORDERS["shuffled"], mode="shadow")
    ((b,), (other,), _) = predict(map(replaced, ORDERS["shuffled"]), mode="shadow")
    np.testing.assert_array_equal(one.counters, other.counters)
    np.testing.assert_array_equal(a.lines, b.lines)


def test_the_prediction_does_see_the_calibration_lines() -> None:
    masks = {
        tuple(predict(ONE.lines(slice_), mode="shadow")[1][0].counters.tolist())
        for slice_ in range(3)
    }
    assert len(masks) == 3


def test_the_mask_comes_with_the_last_calibration_line_and_before_it_goes_on() -> None:
    out = run((PredictMask(mode="shadow"),), scan_of(), calibration_first())
    assert [type(item).__name__ for item in out[7:11]] == [
        "PreScan",
        "Mask",
        "Acquisition",
        "Acquisition",
    ]


def test_interleaved_slices_have_a_mask_each() -> None:
    lines = [line for trio in zip(*(ONE.lines(s) for s in range(3)), strict=True) for line in trio]
    (prescans, masks, passed) = predict(lines, mode="shadow")
    assert [p.key.slice for p in prescans] == [m.key.slice for m in masks] == [0, 1, 2]
    for slice_, (prescan, mask) in enumerate(zip(prescans, masks, strict=True)):
        np.testing.assert_allclose(prescan.lines, ONE.hybrid(slice_)[:, :, CALIBRATION], atol=1e-5)
        ((_, (alone,), _)) = predict(ONE.lines(slice_), mode="shadow")
        np.testing.assert_array_equal(mask.counters, alone.counters)
    assert len(passed) == 3 * N_KY


def test_of_a_repeated_calibration_line_the_first_counts() -> None:
    lines = calibration_first()
    again = replace(lines[0], data=lines[0].data * 50)
    ((a,), _, _) = predict([lines[0], again, *lines[1:]], mode="shadow")
    ((b,), _, _) = predict(lines, mode="shadow")
    np.testing.assert_array_equal(a.lines, b.lines)


@pytest.mark.parametrize(
    "fields",
    [
        {"flags": Flag.NAVIGATION},
        {"flags": Flag.CALIBRATION},
        {"flags": Flag.DUMMY},
        {"encoding_space_ref": 1},
    ],
)
def test_readouts_of_no_image_are_no_calibration_and_pass(fields: dict[str, int]) -> None:
    other = [changed(line, **fields) for line in ONE.lines(1, CALIBRATION)]
    other = [changed(line, slice=0) for line in other]
    for mode in ("shadow", "retrospective"):
        ((prescan,), _, passed) = predict([*other, *ONE.lines()], mode=mode)
        np.testing.assert_allclose(prescan.lines, ONE.hybrid()[:, :, CALIBRATION], atol=1e-5)
        assert [line is given for line, given in zip(passed, other, strict=False)] == [True] * 8


@pytest.mark.parametrize("order", ORDERS)
def test_retrospective_drops_exactly_what_the_mask_excludes(order: str) -> None:
    lines = ORDERS[order]
    (_, (mask,), passed) = predict(lines, mode="retrospective")
    wanted = [c for c in counters_of(lines) if c in mask.counters]
    assert counters_of(passed) == wanted
    assert (mask.enforced, mask.sent, mask.fallback) == (True, False, None)


def test_retrospective_loses_no_line_of_a_slice_that_never_had_its_calibration() -> None:
    lines = [line for line in ORDERS["shuffled"] if line.header["kspace_encode_step_1"] != 30]
    (prescans, masks, passed) = predict(lines, mode="retrospective")
    assert not prescans
    assert not masks
    assert counters_of(passed) == counters_of(lines)


def test_retrospective_keeps_all_averages_and_contrasts_of_a_chosen_line() -> None:
    lines = [
        line
        for counter in range(N_KY)
        for contrast in (0, 1)
        for average in (0, 1)
        for line in ONE.lines(0, [counter], contrast=contrast, average=average)
    ]
    (_, (mask,), passed) = predict(lines, mode="retrospective")
    assert counters_of(passed) == [c for c in mask.counters.tolist() for _ in range(4)]


def test_retrospective_lines_make_a_complete_frame() -> None:
    chain = (NoiseAdjust(), RemoveReadoutOversampling(), PredictMask(mode="retrospective"))
    out = run((*chain, AccumulateFrame()), scan_of(), ORDERS["shuffled"])
    mask = next(item for item in out if isinstance(item, Mask))
    (frame,) = (item for item in out if isinstance(item, Frame))
    assert np.flatnonzero(frame.mask).tolist() == mask.counters.tolist()
    assert (frame.meta["fallback"], frame.meta["reason"]) == ("false", "predicted")


def test_shadow_passes_everything_and_never_sends() -> None:
    channel = Channel(hello())
    (_, (mask,), passed) = predict(ORDERS["shuffled"], scan_of(masks=channel), mode="shadow")
    assert counters_of(passed) == counters_of(ORDERS["shuffled"])
    assert not channel.sent
    assert (mask.sent, mask.enforced, mask.fallback) == (False, False, None)
    assert mask.counters.size == 20  # the sequence's budget, to compare with what it measured


def test_prospective_sends_one_mask_per_slice_as_the_hello_wants_it() -> None:
    channel = Channel(hello())
    lines = [line for slice_ in range(3) for line in ONE.lines(slice_)]
    (prescans, masks, passed) = predict(lines, scan_of(masks=channel))
    assert [m.scope for m in channel.masks] == [Scope(slice=s, repetition=0) for s in range(3)]
    assert len(passed) == len(lines)
    for sent, mask, prescan in zip(channel.masks, masks, prescans, strict=True):
        assert list(sent.counters) == mask.counters.tolist()
        assert len(sent.counters) == 20
        assert prescan.counters.tolist() == list(hello().calibration)
        assert (mask.sent, mask.enforced, mask.reason) == (True, True, "predicted")
        assert mask.fallback is not None
        assert mask.fallback.tolist() == list(hello().fallback)
        assert sent.model == mask.model
    assert list(channel.masks[0].counters) == expected(
        list(hello().calibration), 20, hello().acquirable
    )


@pytest.mark.parametrize(("rule", "n_masks"), [("first", 1), ("each", 3)])
def test_one_mask_spans_what_the_sequence_said(rule: str, n_masks: int) -> None:
    channel = Channel(hello(repetition=rule))
    lines = [line for r in range(3) for line in ONE.lines(repetition=r)]
    (prescans, masks, passed) = predict(lines, scan_of(masks=channel))
    assert [m.scope.repetition for m in channel.masks] == list(range(n_masks))
    assert [m.key.repetition for m in masks] == list(range(n_masks))
    assert len(prescans) == n_masks
    assert len(passed) == len(lines)


def test_a_first_mask_that_comes_from_a_later_repetition_serves_all() -> None:
    channel = Channel(hello(repetition="first"))
    (_, (mask,), _) = predict(ONE.lines(repetition=2), scan_of(masks=channel))
    assert channel.masks[0].scope == Scope(slice=0, repetition=0)
    assert mask.key.repetition == 0


@pytest.mark.parametrize(
    ("channel", "reason"),
    [
        (None, "no mask channel"),
        (Channel(token=None), "the scan carries no mnet_scan_token"),
        (Channel(), "no answer from the mask channel yet"),
    ],
)
def test_without_a_partner_nothing_is_sent_and_lines_pass(
    channel: Channel | None, reason: str
) -> None:
    (_, (mask,), passed) = predict(ORDERS["shuffled"], scan_of(masks=channel))
    assert (mask.sent, mask.enforced, mask.reason) == (False, False, reason)
    assert counters_of(passed) == counters_of(ORDERS["shuffled"])
    assert mask.counters.size == BUDGET
    assert channel is None or not channel.sent


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"center": 33}, "hello has center 33, the MRD header 32"),
        ({"acquirable": tuple(range(4, 64))}, ""),
        (
            {"acquirable": tuple(range(4, 64)), "ky_max": 70},
            "hello has ky_min 0 and ky_max 70, the MRD header 0 and 63",
        ),
    ],
)
def test_a_hello_that_contradicts_the_header_is_refused(
    changes: dict[str, Any], words: str
) -> None:
    channel = Channel(hello(**changes))
    (_, (mask,), passed) = predict(ORDERS["shuffled"], scan_of(masks=channel))
    assert len(passed) == N_KY
    refusals = [m for m in channel.sent if isinstance(m, Nack)]
    if not words:
        assert mask.sent
        assert not refusals
        return
    assert not channel.masks
    assert not mask.sent
    assert [(m.reason, words in m.detail) for m in refusals] == [("disagreement", True)]
    assert words in mask.reason


def test_a_sequence_that_leaves_in_mid_scan_gets_no_mask_and_its_fallback_counts() -> None:
    channel = Channel(hello())
    scan = scan_of(masks=channel)

    def stream() -> Iterable[Item]:
        yield from ONE.lines(0)
        channel.receive(Bye(scan_token=TOKEN))
        yield from ONE.lines(1, hello().fallback)

    out = run((PredictMask(), AccumulateFrame()), scan, stream())
    first, second = (item for item in out if isinstance(item, Mask))
    assert (first.sent, second.sent) == (True, False)
    assert second.reason == "the mask channel closed"
    assert len(channel.masks) == 1
    frame = [item for item in out if isinstance(item, Frame)][-1]
    assert frame.key.slice == 1
    assert np.flatnonzero(frame.mask).tolist() == list(hello().fallback)
    assert (frame.meta["fallback"], frame.meta["reason"]) == ("true", "the mask channel closed")


def test_half_of_the_lines_that_a_mask_or_an_image_lacks_may_gather() -> None:
    scan = scan_of(masks=Channel(hello()))  # 10 calibration lines, 20 in all
    said = []

    def stream() -> Iterable[Item]:
        order = [
            *hello().calibration,
            *(c for c in hello().fallback if c not in hello().calibration),
        ]
        for line in ONE.lines(0, order):
            yield line
            said.append((scan.slack.to_mask, scan.slack.lines))

    run((PredictMask(),), scan, stream())
    before, after = said[:9], said[9:]
    assert before == [(left, left // 2) for left in range(9, 0, -1)]
    # the next slice lacks all 10; nothing of it gathers behind the last line of this image
    assert after == [(10, min(10, left) // 2) for left in [*range(10, 0, -1), 10]]


def test_without_a_sequence_that_waits_no_line_gathers() -> None:
    scan = scan_of()
    run((PredictMask(mode="retrospective"),), scan, ONE.lines(0))
    assert scan.slack.lines == 0


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (Broken(RuntimeError("out of memory")), "out of memory"),
        (Broken(ValueError("bad shape")), "bad shape"),
        (Broken(), "not finite"),
        (Undecided(RuntimeError("out of memory")), "out of memory"),
        (Undecided(), "losses that are not numbers"),
    ],
)
@pytest.mark.parametrize("mode", ["prospective", "retrospective", "shadow"])
def test_a_net_that_fails_does_not_end_the_scan(
    mode: str, net: Broken | Undecided, words: str
) -> None:
    channel = Channel(hello())
    scan = scan_of(net=net, masks=channel)
    (prescans, masks, passed) = predict([*ONE.lines(0), *ONE.lines(1)], scan, mode=mode)
    assert len(prescans) == len(masks) == 2
    assert not channel.masks
    lines = PredictMask().plan(ONE.geometry, hello())
    population = np.flatnonzero(net.population(lines)).tolist()
    for mask in masks:
        assert mask.reason.startswith("sampler failed")
        assert words in mask.reason
        assert mask.counters.tolist() == population
        assert mask.enforced == (mode == "retrospective")
    kept = population * 2 if mode == "retrospective" else list(range(N_KY)) * 2
    assert counters_of(passed) == kept


def test_a_failed_net_shows_in_the_image_s_meta() -> None:
    out = run(
        (PredictMask(mode="retrospective"), AccumulateFrame()),
        scan_of(net=Broken()),
        ORDERS["ascending"],
    )
    (frame,) = (item for item in out if isinstance(item, Frame))
    assert frame.meta["fallback"] == "true"
    assert "sampler failed" in frame.meta["reason"]


def test_a_net_without_a_population_mask_falls_back_to_the_centre() -> None:
    class Bare(nn.Module):
        def forward(self, z: Tensor, lines: LinePlan, coils: Tensor) -> Tensor:
            raise RuntimeError("boom")

    (_, (mask,), _) = predict(ORDERS["ascending"], scan_of(net=Bare()), mode="shadow")
    lines = PredictMask().plan(ONE.geometry, None)
    assert mask.counters.tolist() == np.flatnonzero(low_pass(lines)).tolist()


def test_missing_weights_show_before_the_first_item() -> None:
    def never() -> Any:
        raise AssertionError("an item was asked for")
        yield

    with pytest.raises(ValueError, match="no weights 'none-such'"):
        PredictMask(sampler="none-such")(Scan(geometry=ONE.geometry, models=Models()), never())


def test_warming_leaves_nothing_behind() -> None:
    channel = Channel(hello())
    scan = scan_of(masks=channel)
    PredictMask().warm(scan)
    assert not channel.sent
    assert not scan.counts


AS_THE_HEADER = {
    "acquirable": tuple(range(N_KY)),
    "calibration": tuple(CALIBRATION),
    "n_lines": BUDGET,
    "fallback": tuple(range(CALIBRATION[0], CALIBRATION[0] + BUDGET)),
}


@pytest.mark.parametrize(("said", "n_rehearsals"), [(AS_THE_HEADER, 0), ({}, 1)])
def test_a_plan_is_rehearsed_before_the_scan_or_with_its_first_line_and_not_twice(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], n_rehearsals: int
) -> None:
    scan, gadget = scan_of(masks=Channel(hello(**said))), PredictMask()
    gadget.warm(scan)
    made: list[int] = []
    predict = PredictMask._predict
    monkeypatch.setattr(
        PredictMask, "_predict", lambda self, *a: (made.append(1), predict(self, *a))[1]
    )
    run((gadget,), scan, calibration_first())
    assert len(made) == n_rehearsals + 1, "the rehearsals of the plan, and its one mask"


@pytest.mark.parametrize("n_ky", [8, 31])
def test_small_and_odd_matrices_have_masks_too(n_ky: int) -> None:
    one = scanned(n_x=15, n_ky=n_ky, n_coils=1)
    (_, masks, passed) = predict(one.lines(), scan_of(one), mode="shadow", acceleration=2)
    assert [m.counters.size for m in masks] == [n_ky // 2]
    assert len(passed) == n_ky


EXPERTS = MNetExperts(
    trees=[
        {
            "acceleration": 4.0,
            "tree": {
                "expert": 0,
                "fallback": 2,
                "feature": "channels",
                "threshold": 1.5,
                "below": {"expert": 5, "fallback": 5},
                "above": {"expert": 3, "fallback": 2},
            },
        }
    ]
)


def test_what_an_expert_was_chosen_for_stands_in_the_log_and_in_the_image_s_meta(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "gadgets.steps.predict_mask"):
        out = run(
            (PredictMask(mode="retrospective"), AccumulateFrame()),
            scan_of(net=EXPERTS),
            ORDERS["ascending"],
        )
    (frame,) = (item for item in out if isinstance(item, Frame))
    (mask,) = (item for item in out if isinstance(item, Mask))
    assert mask.choice == frame.meta["choice"] == "expert 3, many channels"
    assert caplog.messages[-1].endswith("predicted: expert 3, many channels")
    lines = PredictMask().plan(ONE.geometry, None)
    assert mask.counters.tolist() == np.flatnonzero(family(lines)[3]).tolist()


def guarded(net: nn.Module, *, alarm: bool) -> Scan:
    """Return a scan whose sampler has a guard that alarms on every slice, or on none."""
    wide = {
        "centre": [0.0] * len(NAMES),
        "scale": [1.0] * len(NAMES),
        "whiten": [[1.0] * (i + 1) for i in range(len(NAMES))],
        "limit": 1e6,
    }
    check = {"reason": "fold-over", "weights": {"lines": 1.0}, "limit": 0.0 if alarm else 99.0}
    scan = scan_of(net=net)
    guard = {"checks": [check], "envelopes": {"few": wide}}
    scan.models.get("mnet_select")[1]["guard"] = guard
    return scan


@pytest.mark.parametrize("mode", ["retrospective", "shadow"])
def test_a_slice_that_the_guard_refuses_gets_the_fallback_of_its_stratum_and_says_so(
    mode: str,
) -> None:
    chain = (PredictMask(mode=mode), AccumulateFrame())
    out = run(chain, guarded(EXPERTS, alarm=True), ORDERS["ascending"])
    (frame,) = (item for item in out if isinstance(item, Frame))
    (mask,) = (item for item in out if isinstance(item, Mask))
    lines = PredictMask().plan(ONE.geometry, None)
    assert mask.counters.tolist() == np.flatnonzero(family(lines)[2]).tolist()
    assert mask.guard == frame.meta["guard"] == "fold-over"
    assert mask.choice == frame.meta["choice"] == "guard: fold-over"
    assert mask.reason == "predicted"
    assert frame.meta["fallback"] == "false"


def test_a_sampler_without_strata_gives_its_best_fixed_mask_where_its_guard_refuses() -> None:
    (_, (mask,), _) = predict(ORDERS["ascending"], guarded(NET, alarm=True), mode="shadow")
    lines = PredictMask().plan(ONE.geometry, None)
    assert mask.counters.tolist() == np.flatnonzero(NET.population(lines)).tolist()
    assert mask.counters.tolist() != expected(CALIBRATION, BUDGET, range(N_KY))


def test_a_guard_that_says_nothing_changes_nothing() -> None:
    (_, (mask,), _) = predict(ORDERS["ascending"], guarded(NET, alarm=False), mode="shadow")
    assert mask.counters.tolist() == expected(CALIBRATION, BUDGET, range(N_KY))
    assert mask.guard == mask.choice == ""


def test_the_mask_of_a_refused_slice_is_sent_as_any_other() -> None:
    channel = Channel(hello())
    scan = replace(guarded(EXPERTS, alarm=True), masks=channel)
    (_, (mask,), _) = predict(ONE.lines(), scan)
    assert (mask.sent, mask.enforced, mask.guard) == (True, True, "fold-over")
    (sent,) = channel.masks
    assert list(sent.counters) == mask.counters.tolist()
    assert sent.reason == "predicted"


def test_what_a_net_promises_and_the_margin_stand_in_the_image_s_meta() -> None:
    chain = (PredictMask(mode="retrospective"), AccumulateFrame())
    out = run(chain, scan_of(net=MNetSelect(n_channels=4, n_embedding=8)), ORDERS["ascending"])
    (frame,) = (item for item in out if isinstance(item, Frame))
    assert frame.meta["choice"].startswith("best fixed mask, ")
    assert frame.meta["choice"].endswith(", which promises most")


def test_a_net_that_cannot_explain_itself_says_nothing_of_its_choice() -> None:
    (_, (mask,), _) = predict(ORDERS["ascending"], mode="shadow")
    assert mask.choice == ""


@pytest.mark.parametrize(("wanted", "found"), [(0, 8), (6, 6), (40, 8)])
def test_few_calibration_lines_are_a_choice_of_the_plan(wanted: int, found: int) -> None:
    lines = PredictMask(n_calibration=wanted).plan(ONE.geometry, None)
    assert lines.calibration.sum() == found
    assert lines.n_lines == BUDGET
    ((prescan,), (mask,), _) = predict(ORDERS["ascending"], mode="shadow", n_calibration=wanted)
    assert prescan.counters.size == found
    assert mask.counters.size == BUDGET


def test_a_calibration_of_fewer_lines_than_maps_need_is_refused() -> None:
    with pytest.raises(ValueError, match="n_calibration is 3"):
        PredictMask(n_calibration=3)


def test_maps_come_from_the_reference_lines_where_the_calibration_is_narrow() -> None:
    reference = ONE.lines(0, range(20, 44), flags=Flag.CALIBRATION)
    chain = (
        RemoveReadoutOversampling(),
        PredictMask(mode="retrospective", n_calibration=6),
        AccumulateFrame(),
        CoilMaps(),
    )
    out = run(chain, scan_of(), [*reference, *ORDERS["ascending"]])
    (mask,) = (item for item in out if isinstance(item, Mask))
    (frame,) = (item for item in out if isinstance(item, Frame))
    assert frame.calibration.sum() == 6
    assert mask.counters.size == BUDGET
    (prescan,) = (item for item in out if isinstance(item, PreScan))
    np.testing.assert_allclose(prescan.lines, ONE.hybrid()[:, :, 20:44], atol=1e-4)
    expected = coil_maps(torch.from_numpy(prescan.lines), N_KY).numpy()
    np.testing.assert_array_equal(frame.csm, expected)
    # counted honestly: 24 lines beside the 16 of the budget
    assert frame.meta["n_reference"] == "24"
    assert float(frame.meta["acceleration"]) == pytest.approx(N_KY / BUDGET)
    assert float(frame.meta["acceleration_with_reference"]) == pytest.approx(N_KY / (BUDGET + 24))
