from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gadgets.mask.messages import Applied, Scope
from gadgets.mrd.complete import lost_rows
from gadgets.mrd.geometry import Geometry
from gadgets.mrd.header_layouts import Flag, ImageKey, image_key
from gadgets.mrd.items import Acquisition, Frame, Item, Mask, PreScan
from gadgets.pipeline.chain import run
from gadgets.pipeline.intake import OUT_OF_RANGE
from gadgets.pipeline.scan import Scan
from gadgets.steps.accumulate import LOST, AccumulateFrame
from gadgets.steps.readout import RemoveReadoutOversampling
from tests.gadgets.helpers.synthetic import Scanned, acquisition, changed, fft, scanned

ONE = scanned(n_ky=16, n_slices=2)
COUNTERS = np.arange(16)


def scan_of(one: Scanned, **services: Any) -> Scan:
    return Scan(geometry=one.geometry, **services)


def collect(
    items: Iterable[Item], one: Scanned = ONE, scan: Scan | None = None, **properties: Any
) -> list[Frame]:
    chain = (RemoveReadoutOversampling(), AccumulateFrame(**properties))
    out = run(chain, scan or scan_of(one), list(items))
    return [item for item in out if isinstance(item, Frame)]


def mask(counters: Iterable[int], *, slice_: int = 0, repetition: int = 0, **fields: Any) -> Mask:
    values: dict[str, Any] = {"reason": "predicted", "sent": True, "enforced": True, "model": "m"}
    return Mask(
        key=ImageKey(0, slice_, 0, 0, repetition, 0),
        counters=np.array(sorted(counters)),
        **(values | fields),
    )


def last(lines: list[Acquisition]) -> list[Acquisition]:
    flags = int(lines[-1].header["flags"]) | Flag.LAST_IN_SLICE
    return [*lines[:-1], changed(lines[-1], flags=flags)]


def close(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, atol=1e-5 * max(np.abs(b).max(), 1e-9))


@pytest.mark.parametrize(
    ("n_ky", "limits"),
    [
        (16, {}),
        (17, {}),
        (15, {"ky_min": 0, "ky_max": 14, "center": 7}),
        (16, {"ky_min": 0, "ky_max": 11, "center": 4}),  # partial Fourier: 4 rows are missing
        (17, {"ky_min": 3, "ky_max": 12, "center": 8}),
        (17, {"ky_min": 0, "ky_max": 9, "center": 1}),
        (16, {"ky_min": 10, "ky_max": 25, "center": 18}),
    ],
)
@pytest.mark.parametrize("n_x", [24, 21])
def test_lines_lie_where_the_fourier_transform_of_the_object_has_them(
    n_ky: int, limits: dict[str, int], n_x: int
) -> None:
    one = scanned(n_x=n_x, n_ky=n_ky, **limits)
    (frame,) = collect(one.lines(), one)
    expected = one.hybrid()
    close(frame.kspace, expected)
    np.testing.assert_array_equal(frame.mask, np.abs(expected).sum((0, 1)) > 0)
    assert int(frame.header["kspace_encode_step_1"]) == one.geometry.center
    assert frame.kspace.dtype == np.complex64


def test_the_order_of_lines_does_not_matter() -> None:
    lines = ONE.lines()
    np.random.default_rng(0).shuffle(lines)  # type: ignore[arg-type]
    (frame,) = collect(lines)
    close(frame.kspace, ONE.hybrid())
    assert int(frame.header["kspace_encode_step_1"]) == ONE.geometry.center


def test_lines_that_no_gadget_has_transformed_are_transformed() -> None:
    (frame,) = run((AccumulateFrame(),), scan_of(ONE), ONE.lines())
    assert isinstance(frame, Frame)
    close(frame.kspace, ONE.hybrid())


def test_averages_are_averaged_and_all_of_them_awaited() -> None:
    one = scanned(n_ky=16, n_averages=3)
    lines = [
        replace(line, data=line.data * (1 + a)) for a in range(3) for line in one.lines(average=a)
    ]
    assert not collect(lines[:-1], one)
    (frame,) = collect(lines, one)
    close(frame.kspace, 2 * one.hybrid())


def test_a_line_missing_from_one_average_is_averaged_over_the_others() -> None:
    one = scanned(n_ky=16, n_averages=2)
    lines = one.lines(average=0) + one.lines(average=1)[1:]
    (frame,) = collect(lines, one, allow_incomplete=True)
    close(frame.kspace, one.hybrid())


def test_the_end_of_a_slice_in_the_first_average_ends_nothing() -> None:
    one = scanned(n_ky=16, n_averages=2)
    lines = last(one.lines(average=0)) + last(one.lines(average=1))
    (frame,) = collect(lines, one)
    close(frame.kspace, one.hybrid())


def test_of_a_doubled_line_the_first_is_kept() -> None:
    scan = scan_of(ONE)
    lines = ONE.lines()
    twice = replace(lines[3], data=lines[3].data * 9)
    (frame,) = collect([*lines[:4], twice, *lines[4:]], scan=scan)
    close(frame.kspace, ONE.hybrid())
    assert scan.counts == {"doubled lines": 1}


def test_a_missing_line_gives_no_frame_and_is_counted() -> None:
    scan = scan_of(ONE)
    lines = ONE.lines()
    assert not collect(lines[:5] + lines[6:], scan=scan)
    assert scan.counts == {"incomplete frames": 1}


def test_an_incomplete_frame_says_so_where_it_is_allowed() -> None:
    scan = scan_of(ONE)
    lines = ONE.lines()
    (frame,) = collect(lines[:5] + lines[6:], scan=scan, allow_incomplete=True)
    assert frame.meta["incomplete"] == "15/16"
    assert not frame.mask[5]
    assert not frame.kspace[:, :, 5].any()
    close(np.delete(frame.kspace, 5, 2), np.delete(ONE.hybrid(), 5, 2))
    assert scan.counts == {"incomplete frames": 1}


def test_a_complete_frame_does_not_say_incomplete() -> None:
    (frame,) = collect(ONE.lines(), allow_incomplete=True)
    assert "incomplete" not in frame.meta


def test_the_last_line_in_slice_ends_a_slice_without_a_mask() -> None:
    counters = [0, 4, *range(5, 12), 15]
    (frame,) = collect(last(ONE.lines(counters=counters)))
    assert np.flatnonzero(frame.mask).tolist() == counters
    assert frame.meta["n_lines"] == "10"
    assert frame.meta["acceleration"] == "1.6"


def test_without_that_flag_an_undersampled_slice_never_ends() -> None:
    scan = scan_of(ONE)
    assert not collect(ONE.lines(counters=[0, 4, 7, 8, 9]), scan=scan)
    assert scan.counts == {"incomplete frames": 1}


def test_a_frame_leaves_with_the_last_line_of_its_mask() -> None:
    sent = mask([0, 6, 7, 8, 9, 15])
    out = run(
        (AccumulateFrame(),),
        scan_of(ONE),
        [sent, *ONE.lines(counters=[7, 8, 6, 9, 15, 0]), *ONE.lines(1)],
    )
    assert [type(item) for item in out] == [Mask, Frame, Frame]
    frame = out[1]
    assert isinstance(frame, Frame)
    assert np.flatnonzero(frame.mask).tolist() == [0, 6, 7, 8, 9, 15]
    assert (frame.meta["fallback"], frame.meta["reason"], frame.meta["model"]) == (
        "false",
        "predicted",
        "m",
    )


def test_a_line_of_the_mask_missing_gives_no_frame_though_the_slice_ended() -> None:
    scan = scan_of(ONE)
    lines = last(ONE.lines(counters=[0, 6, 7, 8, 15]))
    assert not collect([mask([0, 6, 7, 8, 9, 15]), *lines], scan=scan)
    assert scan.counts == {"incomplete frames": 1}
    (frame,) = collect([mask([0, 6, 7, 8, 9, 15]), *lines], allow_incomplete=True)
    assert frame.meta["incomplete"] == "5/6"


def test_the_fallback_ends_a_slice_though_a_mask_was_sent() -> None:
    sent = mask([0, 7, 8, 9], fallback=np.array([2, 7, 8, 13]))
    (frame,) = collect([sent, *ONE.lines(counters=[7, 8, 2, 13])])
    assert np.flatnonzero(frame.mask).tolist() == [2, 7, 8, 13]
    assert frame.meta["fallback"] == "true"
    assert frame.meta["reason"] == "the sequence did not take the mask"


def test_the_mask_and_not_the_fallback_is_no_fallback() -> None:
    sent = mask([0, 7, 8, 9], fallback=np.array([2, 7, 8, 13]))
    (frame,) = collect([sent, *ONE.lines(counters=[7, 8, 0, 9])])
    assert (frame.meta["fallback"], frame.meta["reason"]) == ("false", "predicted")


@pytest.mark.parametrize("reason", ["sampler failed: boom", "the scan carries no mnet_scan_token"])
def test_a_mask_that_was_not_sent_is_not_waited_for_and_the_image_says_why(reason: str) -> None:
    unsent = mask([0, 7, 8, 9], sent=False, enforced=False, reason=reason)
    (frame,) = collect([unsent, *ONE.lines()])
    assert frame.mask.all()
    assert (frame.meta["fallback"], frame.meta["reason"]) == ("true", reason)


def test_a_shadow_mask_changes_nothing() -> None:
    shadow = mask([0, 7, 8, 9], sent=False, enforced=False)
    (frame,) = collect([shadow, *ONE.lines()])
    assert frame.mask.all()
    assert frame.meta["fallback"] == "false"


class Channel:
    """The part of a ReconLink that frames ask."""

    def __init__(self, applied: Applied) -> None:
        self._applied = applied

    def applied(self, scope: Scope) -> Applied | None:
        return self._applied if scope == self._applied.scope else None


def applied(counters: list[int], *, fallback: bool, repetition: int = 0) -> Applied:
    return Applied(
        scan_token="t",
        scope=Scope(slice=0, repetition=repetition),
        ky_min=0,
        ky_max=15,
        counters=tuple(counters),
        fallback=fallback,
        reason="no mask within 5 ms" if fallback else "predicted",
    )


def test_the_reason_of_a_fallback_is_what_the_sequence_said() -> None:
    scan = scan_of(ONE, masks=Channel(applied([2, 7, 8, 13], fallback=True)))
    sent = mask([0, 7, 8, 9], fallback=np.array([2, 7, 8, 13]))
    (frame,) = collect([sent, *ONE.lines(counters=[7, 8, 2, 13])], scan=scan)
    assert (frame.meta["fallback"], frame.meta["reason"]) == ("true", "no mask within 5 ms")


def test_where_mask_and_fallback_are_equal_the_sequence_s_word_decides() -> None:
    same = [2, 7, 8, 13]
    for fallback in (False, True):
        scan = scan_of(ONE, masks=Channel(applied(same, fallback=fallback)))
        items = [mask(same, fallback=np.array(same)), *ONE.lines(counters=same)]
        (frame,) = collect(items, scan=scan)
        assert frame.meta["fallback"] == str(fallback).lower()


def test_each_repetition_has_the_reason_of_its_own_mask() -> None:
    scan = scan_of(ONE, masks=Channel(applied([2, 7, 8, 13], fallback=True)))
    items: list[Item] = []
    for repetition, counters in ((0, [2, 7, 8, 13]), (1, [0, 7, 8, 9])):
        items.append(mask([0, 7, 8, 9], repetition=repetition, fallback=np.array([2, 7, 8, 13])))
        items += ONE.lines(counters=counters, repetition=repetition)
    first, second = collect(items, scan=scan)
    assert (first.meta["fallback"], first.meta["reason"]) == ("true", "no mask within 5 ms")
    assert (second.meta["fallback"], second.meta["reason"]) == ("false", "predicted")


def test_later_repetitions_take_the_mask_of_the_first() -> None:
    items = [mask([0, 7, 8, 9])]
    for repetition in range(3):
        items += ONE.lines(counters=[0, 7, 8, 9], repetition=repetition)  # type: ignore[arg-type]
    frames = collect(items)
    assert [frame.key.repetition for frame in frames] == [0, 1, 2]


@pytest.mark.parametrize("counter_name", ["repetition", "contrast", "set", "phase"])
def test_images_that_differ_in_a_counter_are_kept_apart(counter_name: str) -> None:
    lines = [
        replace(line, data=line.data * (1 + i))
        for pair in zip(ONE.lines(**{counter_name: 0}), ONE.lines(**{counter_name: 1}), strict=True)
        for i, line in enumerate(pair)
    ]
    frames = collect(lines)
    assert [getattr(frame.key, counter_name) for frame in frames] == [0, 1]
    close(frames[0].kspace, ONE.hybrid())
    close(frames[1].kspace, 2 * ONE.hybrid())


def test_segments_are_one_image() -> None:
    lines = [line for s in (0, 1) for line in ONE.lines(counters=COUNTERS[s::2], segment=s)]
    (frame,) = collect(lines)
    close(frame.kspace, ONE.hybrid())


def test_interleaved_slices_are_kept_apart() -> None:
    pairs = zip(ONE.lines(0), ONE.lines(1), strict=True)
    frames = collect(line for pair in pairs for line in pair)
    assert [frame.key.slice for frame in frames] == [0, 1]
    for frame in frames:
        close(frame.kspace, ONE.hybrid(frame.key.slice))


@pytest.mark.parametrize(
    ("limits", "outside"),
    [
        ({"ky_min": 2, "ky_max": 13, "center": 8}, [0, 1, 14, 15, 65535]),
        ({"ky_min": 5, "ky_max": 20, "center": 8}, [16, 20, 21]),  # 16 to 20: not in the matrix
        ({"ky_min": 0, "ky_max": 15, "center": 12}, [0, 1, 2, 3]),
    ],
)
def test_lines_outside_the_limits_or_the_matrix_are_counted(
    limits: dict[str, int], outside: list[int]
) -> None:
    one = scanned(n_ky=16, **limits)
    if limits["center"] == 12:
        outside = [16, 17, 40]  # counters 0..15 lie in rows -4..11
    scan = scan_of(one)
    lines = one.lines(counters=outside) + one.lines()
    (frame,) = collect(lines, one, scan)
    close(frame.kspace, one.hybrid())
    assert scan.counts == {"lines outside the encoding limits": len(outside)}


def test_rows_below_the_matrix_do_not_wrap_to_its_end() -> None:
    one = scanned(n_ky=16, ky_min=0, ky_max=15, center=12)
    scan = scan_of(one)
    (frame,) = collect(one.lines(counters=range(16)), one, scan)
    assert np.flatnonzero(frame.mask).tolist() == list(range(12))
    assert scan.counts == {"lines outside the encoding limits": 4}


@pytest.mark.parametrize(
    "flag",
    [
        Flag.NAVIGATION,
        Flag.PHASE_CORRECTION,
        Flag.DUMMY,
        Flag.HP_FEEDBACK,
        Flag.RT_FEEDBACK,
        Flag.SURFACE_COIL_CORRECTION,
        Flag.NOISE,
        Flag.DUMMY | Flag.CALIBRATION,
    ],
)
def test_readouts_that_are_no_imaging_lines_are_counted_and_left_out(flag: int) -> None:
    scan = scan_of(ONE)
    other = changed(ONE.line(3), flags=flag)
    other = replace(other, data=other.data * 100)
    (frame,) = collect([other, changed(other, kspace_encode_step_1=500), *ONE.lines()], scan=scan)
    close(frame.kspace, ONE.hybrid())
    assert scan.counts == {"lines that are not imaging": 2}


@pytest.mark.parametrize(
    "flags", [Flag.CALIBRATION_AND_IMAGING, Flag.CALIBRATION_AND_IMAGING | Flag.CALIBRATION]
)
def test_lines_for_calibration_and_imaging_are_imaged(flags: int) -> None:
    lines = [
        changed(line, flags=flags) if 4 <= i < 12 else line for i, line in enumerate(ONE.lines())
    ]
    (frame,) = collect(lines)
    close(frame.kspace, ONE.hybrid())


def test_lines_for_calibration_alone_serve_maps_and_no_image() -> None:
    reference = [
        replace(line, data=line.data * 3)
        for line in ONE.lines(counters=range(4, 12), flags=Flag.CALIBRATION)
    ]
    imaged = [0, 2, 4, 6, 8, 10, 13, 15]
    out = run(
        (RemoveReadoutOversampling(), AccumulateFrame()),
        scan_of(ONE),
        [*reference, *last(ONE.lines(counters=imaged))],
    )
    prescan, frame = out
    assert isinstance(prescan, PreScan)
    assert isinstance(frame, Frame)
    assert np.flatnonzero(frame.mask).tolist() == imaged
    np.testing.assert_array_equal(prescan.counters, range(4, 12))
    hybrid = ONE.hybrid()
    close(frame.kspace[:, :, imaged], hybrid[:, :, imaged])
    # a line that was imaged too is taken from the image
    for i, counter in enumerate(range(4, 12)):
        factor = 1 if counter in imaged else 3
        close(prescan.lines[:, :, i], factor * hybrid[:, :, counter])


def prescan_of(counters: range, repetition: int = 0) -> PreScan:
    key = ImageKey(0, 0, 0, 0, repetition, 0)
    return PreScan(
        key=key, lines=np.zeros((3, 24, len(counters)), np.complex64), counters=np.array(counters)
    )


def test_a_prescan_of_few_lines_has_the_reference_lines_in_its_place() -> None:
    reference = ONE.lines(counters=range(3, 13), flags=Flag.CALIBRATION)
    items = [*reference, prescan_of(range(7, 10)), *ONE.lines()]
    items += [prescan_of(range(7, 10), repetition=1), *ONE.lines(repetition=1)]
    out = run((RemoveReadoutOversampling(), AccumulateFrame()), scan_of(ONE), items)
    first, one, second, two = out
    for prescan in (first, second):  # a later repetition has none of its own
        assert isinstance(prescan, PreScan)
        np.testing.assert_array_equal(prescan.counters, range(3, 13))
        close(prescan.lines, ONE.hybrid()[:, :, 3:13])
    for frame in (one, two):  # what the mask was decided from stays as it was
        assert isinstance(frame, Frame)
        assert np.flatnonzero(frame.calibration).tolist() == [7, 8, 9]
    assert one.meta["n_reference"] == "10"
    assert one.meta["acceleration_with_reference"] == f"{16 / 26:.4g}"
    assert "n_reference" not in two.meta


def test_a_prescan_of_more_lines_than_the_reference_stays() -> None:
    reference = ONE.lines(counters=range(6, 10), flags=Flag.CALIBRATION)
    prescan = prescan_of(range(5, 11))
    out = run((RemoveReadoutOversampling(), AccumulateFrame()), scan_of(ONE), [*reference, prescan])
    assert out == [prescan]


def test_reference_lines_away_from_the_centre_give_no_prescan() -> None:
    reference = ONE.lines(counters=[1, 2], flags=Flag.CALIBRATION)
    out = run((AccumulateFrame(),), scan_of(ONE), [*reference, *last(ONE.lines(counters=[0, 15]))])
    assert [type(item) for item in out] == [Frame]


def test_a_prescan_says_which_lines_are_calibration() -> None:
    key = image_key(ONE.line(0).header)
    lines = np.zeros((3, 24, 4), np.complex64)
    prescan = PreScan(key=key, lines=lines, counters=np.arange(5, 9))
    (frame,) = collect([prescan, *ONE.lines()])
    assert np.flatnonzero(frame.calibration).tolist() == [5, 6, 7, 8]


@pytest.mark.parametrize(
    ("counters", "n", "expected"),
    [
        (range(16), 6, [5, 6, 7, 8, 9, 10]),
        (range(16), 5, [6, 7, 8, 9, 10]),
        ([0, 6, 7, 8, 9, 15], 24, [6, 7, 8, 9]),
        ([0, 7, 8, 9, 10, 11, 15], 4, [7, 8, 9]),  # no further than half of 4 above the centre
        ([8], 24, [8]),
        ([0, 15], 24, []),
        (range(8, 16), 24, range(8, 16)),
        (range(9), 24, range(9)),
    ],
)
def test_without_a_prescan_calibration_is_the_gapless_block_about_the_centre(
    counters: Iterable[int], n: int, expected: Iterable[int]
) -> None:
    (frame,) = collect(last(ONE.lines(counters=counters)), n_calibration=n)
    assert np.flatnonzero(frame.calibration).tolist() == list(expected)


def test_a_line_with_nan_is_dropped_and_counted() -> None:
    scan = scan_of(ONE)
    lines = ONE.lines()
    bad = replace(lines[3], data=np.where(np.arange(48) == 5, np.nan, lines[3].data))
    (frame,) = collect([bad, *lines], scan=scan)
    close(frame.kspace, ONE.hybrid())
    assert scan.counts == {OUT_OF_RANGE: 1}
    scan = scan_of(ONE)
    assert not collect([*lines[:3], bad, *lines[4:]], scan=scan)
    assert scan.counts == {OUT_OF_RANGE: 1, "incomplete frames": 1}


def test_lines_after_their_frame_left_are_counted() -> None:
    scan = scan_of(ONE)
    items = [mask([0, 7, 8, 9]), *ONE.lines(counters=[0, 7, 8, 9, 3, 4])]
    (frame,) = collect(items, scan=scan)
    assert frame.mask.sum() == 4
    assert scan.counts == {"lines after their frame was complete": 2}


def test_lines_of_another_encoding_space_are_counted() -> None:
    scan = scan_of(ONE)
    (frame,) = collect([*ONE.lines(encoding_space_ref=1), *ONE.lines()], scan=scan)
    close(frame.kspace, ONE.hybrid())
    assert scan.counts == {"lines of other encoding spaces": 16}


def test_frames_do_not_share_memory_with_what_comes_later() -> None:
    first, second = collect([*ONE.lines(0), *ONE.lines(1)])
    assert not np.shares_memory(first.kspace, second.kspace)
    assert not np.shares_memory(first.mask, second.mask)


def _with_reference_space(fov_y: float) -> bytes:
    """Return ONE's header with a second space of 24 x 8 samples over the same field of view."""
    space = (
        "<encoding><encodedSpace><matrixSize><x>{x}</x><y>8</y><z>1</z></matrixSize>"
        "<fieldOfView_mm><x>{fov_x}</x><y>{fov_y}</y><z>5</z></fieldOfView_mm></encodedSpace>"
        "<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>7</maximum>"
        "<center>4</center></kspace_encoding_step_1></encodingLimits>"
        "<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
    )
    wide = scanned(n_x=32, n_ky=32)
    made = space.format(x=48, fov_x=64, fov_y=fov_y)
    return wide.header.replace(b"</ismrmrdHeader>", made.encode())


@pytest.mark.parametrize(("fov_y", "used"), [(32.0, True), (20.0, False)])
def test_reference_lines_of_a_space_of_their_own_serve_maps_where_their_field_of_view_fits(
    fov_y: float, used: bool
) -> None:
    wide = scanned(n_x=32, n_ky=32)
    scan = Scan(geometry=Geometry.parse(_with_reference_space(fov_y)))
    reference = [
        acquisition(
            wide.kspace[0, :, 8:56, 12 + ky],  # the central 48 of 64 samples, rows 12 to 19
            kspace_encode_step_1=ky,
            encoding_space_ref=1,
            flags=Flag.CALIBRATION,
        )
        for ky in range(8)
    ]
    lines = wide.lines(counters=range(0, 32, 2))
    lines[-1] = changed(lines[-1], flags=Flag.LAST_IN_SLICE)
    out = run((RemoveReadoutOversampling(), AccumulateFrame()), scan, [*reference, *lines])
    scans = [item for item in out if isinstance(item, PreScan)]
    assert len([item for item in out if isinstance(item, Frame)]) == 1
    if not used:
        assert scans == []
        assert scan.counts == {"lines of other encoding spaces": 8}
        return
    assert not scan.counts
    assert scans[0].counters.tolist() == list(range(12, 20))
    # what was not measured along x is zero; the rest is as the image's own lines have it
    kx = fft(scans[0].lines, 1)
    expected = fft(wide.hybrid()[..., 12:20], 1)
    middle = slice(16 - 10, 16 + 10)
    error = np.abs(kx[:, middle] - expected[:, middle]).max()
    assert error < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("rows", "lost"),
    [
        (range(64), 0),
        ([r for r in range(64) if r not in (20, 41)], 2),
        (range(63), 1),
        (range(16, 64), 0),  # partial Fourier
        ([r for r in range(16, 64) if r != 30], 1),
        (sorted({*range(0, 64, 2), *range(24, 40)}), 0),
        (sorted({*range(0, 64, 4), *range(24, 40)} - {8}), 1),
        ([0, 1, 5, 7, 12, 13, 19, *range(28, 37), 41, 47, 48, 60], 0),  # irregular
    ],
)
def test_what_stands_out_as_lost_is_counted_and_designs_are_not(rows: list[int], lost: int) -> None:
    there = np.zeros(64, bool)
    there[list(rows)] = True
    assert lost_rows(there, np.arange(64)) == lost


def test_an_image_that_a_flag_ended_says_what_it_lacks() -> None:
    scan, lines = Scan(geometry=ONE.geometry), ONE.lines()
    lines[-1] = changed(lines[-1], flags=Flag.LAST_IN_SLICE)
    (frame,) = collect([*lines[:4], *lines[6:]], scan=scan)
    assert frame.meta["lines_lost"] == "2"
    assert scan.counts[LOST] == 2


def test_an_image_with_fewer_lines_than_an_earlier_one_says_so() -> None:
    two = scanned(n_slices=2)
    rows = [3, 4, 9, *range(13, 20), 21, 27]
    first = two.lines(0, rows)
    second = two.lines(1, rows[1:])
    for lines in (first, second):
        lines[-1] = changed(lines[-1], flags=Flag.LAST_IN_SLICE)
    a, b = collect([*first, *second], scan=Scan(geometry=two.geometry))
    assert "lines_lost" not in a.meta
    assert b.meta["lines_lost"] == "1"
