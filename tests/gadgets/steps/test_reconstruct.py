from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from gadgets.errors import GadgetError
from gadgets.mrd.header_layouts import ImageKey, image_key
from gadgets.mrd.items import Frame, Item, PreScan
from gadgets.pipeline.chain import run
from gadgets.pipeline.models import Models
from gadgets.pipeline.scan import Scan
from gadgets.steps import coil_maps
from gadgets.steps.coil_maps import FOLDED, CoilMaps
from gadgets.steps.reconstruct import Reconstruct
from mnet.recon.conditions import conditions
from mnet.recon.l1_wavelet import l1_wavelet
from mnet.recon.linear import cg_sense
from mnet.recon.modl import MoDL
from mnet.recon.noise_units import noise_units
from tests.gadgets.helpers.synthetic import Fixed, coil_images, fft, ifft, scanned

ONE = scanned(n_x=16, n_ky=20, n_coils=3, n_slices=2)
ROWS = np.isin(np.arange(20), [1, 4, *range(6, 15), 17])


def small_modl() -> MoDL:
    torch.manual_seed(0)
    model = MoDL(n_channels=4, n_levels=1, n_unrolls=2, n_cg=5)
    torch.nn.init.normal_(model.denoiser.out.weight, std=0.1)  # else it changes nothing
    return model


def maps() -> np.ndarray:
    """Return smooth maps of unit norm."""
    x, y = np.meshgrid(np.linspace(-1, 1, 16), np.linspace(-1, 1, 20), indexing="ij")
    csm = np.stack([np.exp(0.5 * x + 1j * y), np.exp(-y + 0.3j * x), np.exp(y - x) + 0j])
    return (csm / np.linalg.norm(csm, axis=0)).astype(np.complex64)


def frame(csm: np.ndarray | None = None, rows: np.ndarray = ROWS, slice_: int = 0) -> Frame:
    line = ONE.line(10, slice_)
    return Frame(
        key=image_key(line.header),
        header=line.header,
        kspace=(ONE.hybrid(slice_) * rows).astype(np.complex64),
        mask=rows,
        calibration=np.isin(np.arange(20), range(6, 15)) & rows,
        csm=csm,
    )


def reconstruct(given: Frame, models: Models | None = None, **properties: Any) -> Frame:
    scan = Scan(geometry=ONE.geometry, models=models or Models())
    (out,) = run((Reconstruct(**properties),), scan, [given])
    assert isinstance(out, Frame)
    return out


def encode(csm: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Write down the matrix of one x: image column (y) to lines (coils * ky) of the mask."""
    columns = [rows * fft(csm * basis, 1) for basis in np.eye(csm.shape[1])]
    return np.stack([column.ravel() for column in columns], axis=1)


@pytest.mark.parametrize("lam", [1e-3, 0.1])
def test_cg_sense_is_the_dense_least_squares_solution(lam: float) -> None:
    csm, given = maps(), frame(maps())
    out = reconstruct(given, method="cg_sense", lam=lam, n_iterations=200)
    expected = np.zeros((16, 20), complex)
    for x in range(16):
        a = encode(csm[:, x].astype(complex), ROWS)
        rhs = a.conj().T @ given.kspace[:, x].ravel()
        expected[x] = np.linalg.solve(a.conj().T @ a + lam * np.eye(20), rhs)
    np.testing.assert_allclose(out.image, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("method", "function"), [("cg_sense", cg_sense), ("l1_wavelet", l1_wavelet)]
)
@pytest.mark.parametrize("settings", [{}, {"lam": 0.05}, {"lam": 0.0, "n_iterations": 3}])
def test_settings_that_a_pipeline_does_not_name_are_those_of_its_method(
    method: str, function: Callable[..., torch.Tensor], settings: dict[str, Any]
) -> None:
    given = frame(maps())
    out = reconstruct(given, method=method, **settings)
    arrays = given.kspace, maps(), ROWS.astype(np.float32)
    expected = function(*(torch.from_numpy(array)[None] for array in arrays), **settings)
    np.testing.assert_array_equal(out.image, expected[0].numpy())


@pytest.mark.parametrize("settings", [{"lam": -1e-3}, {"n_iterations": 0}])
def test_settings_that_cannot_converge_are_refused(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} is .*, expected at least"):
        Reconstruct(method="l1_wavelet", **settings)


def test_zero_filled_is_the_combined_inverse_transform() -> None:
    given = frame(maps())
    out = reconstruct(given, method="zero_filled")
    expected = (maps().conj() * ifft(given.kspace, 2)).sum(0)
    np.testing.assert_allclose(out.image, expected, atol=1e-5)


def test_full_sampling_with_the_true_maps_gives_the_object() -> None:
    images = coil_images(16, 20, 3)
    norm = np.linalg.norm(images, axis=0)
    csm = np.divide(images, norm, out=np.zeros_like(images), where=norm > 0).astype(np.complex64)
    out = reconstruct(frame(csm, np.ones(20, bool)), method="zero_filled")
    np.testing.assert_allclose(out.image, norm, atol=1e-4)


@pytest.mark.parametrize("method", ["modl", "cg_sense", "l1_wavelet", "zero_filled"])
def test_only_lines_of_the_mask_are_used(method: str) -> None:
    models = Fixed(modl=small_modl())
    given = frame(maps())
    junk = np.where(ROWS, given.kspace, 1e6).astype(np.complex64)
    clean = reconstruct(given, models, method=method).image
    dirty = reconstruct(replace(given, kspace=junk), models, method=method).image
    np.testing.assert_array_equal(clean, dirty)


def test_modl_is_the_model_applied() -> None:
    model = small_modl()
    given = frame(maps())
    out = reconstruct(given, Fixed(mine=model), weights="mine")
    with torch.inference_mode():
        expected = model(
            torch.from_numpy(given.kspace)[None],
            torch.from_numpy(maps())[None],
            torch.from_numpy(ROWS)[None].float(),
        )
    torch.testing.assert_close(torch.from_numpy(out.image), expected[0])


@pytest.mark.parametrize("loud", [0.01, 0.1])
def test_the_meta_says_what_modl_was_told_and_its_last_lam(loud: float) -> None:
    model = small_modl()
    torch.nn.init.normal_(model.log_lam.weight, std=0.3)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, *frame().kspace.shape)) * loud / np.sqrt(2)
    noisy = (frame().kspace + noise[0] + 1j * noise[1]) * ROWS
    given = replace(frame(maps()), kspace=noisy.astype(np.complex64))
    meta = reconstruct(given, Fixed(mine=model), weights="mine").meta
    batch = [torch.from_numpy(a)[None] for a in (given.kspace, maps(), ROWS.astype(np.float32))]
    told = conditions(*noise_units(*batch)[:2], batch[2])
    assert float(meta["noise_ratio"]) == pytest.approx(0.02 * float(told[0, 0].exp()), rel=5e-3)
    a, b = model.log_lam.bias[-1], model.log_lam.weight[-1]
    assert float(meta["lam"]) == pytest.approx(float((a + b @ told[0]).exp()), rel=5e-3)
    others = set(reconstruct(given, method="cg_sense").meta)
    assert not others & {"noise_ratio", "lam"}, "others are told nothing"


def test_conditions_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    n_calls = 0

    def counted(*arrays: torch.Tensor) -> torch.Tensor:
        nonlocal n_calls
        n_calls += 1
        return conditions(*arrays)

    monkeypatch.setattr("mnet.recon.modl.conditions", counted)
    assert "lam" in reconstruct(frame(maps()), Fixed(modl=small_modl())).meta
    assert n_calls == 1


def test_float32_is_a_choice_of_the_pipeline() -> None:
    model = small_modl()
    given = frame(maps())
    out = reconstruct(given, Fixed(mine=model), weights="mine", precision="float32")
    half = model.use_bfloat16
    model.use_bfloat16 = False
    expected = reconstruct(given, Fixed(mine=model), weights="mine")
    assert half, "the choice leaves the shared model as it is"
    np.testing.assert_array_equal(out.image, expected.image)


@pytest.mark.parametrize("method", ["modl", "cg_sense", "l1_wavelet", "zero_filled"])
def test_the_image_is_complex64_and_the_rest_of_the_frame_stays(method: str) -> None:
    given = replace(frame(maps()), meta={"n_lines": "12"})
    out = reconstruct(given, Fixed(modl=small_modl()), method=method)
    assert out.image is not None
    assert out.image.dtype == np.complex64
    assert out.image.shape == (16, 20)
    assert out.meta["method"] == method
    assert out.meta["n_lines"] == "12"
    assert float(out.meta["recon_ms"]) >= 0
    assert out.kspace is given.kspace


def test_a_frame_without_maps_is_an_error() -> None:
    with pytest.raises(GadgetError, match="put CoilMaps before"):
        reconstruct(frame(None), method="zero_filled")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_that_is_not_finite_never_leaves(value: float) -> None:
    given = frame(maps())
    kspace = given.kspace.copy()
    kspace[0, 0, 10] = value
    with pytest.raises(GadgetError, match="slice 0: the reconstruction is not finite"):
        reconstruct(replace(given, kspace=kspace), method="zero_filled")


def test_missing_weights_show_before_the_first_item() -> None:
    def never() -> Any:
        raise AssertionError("an item was asked for")
        yield

    with pytest.raises(ValueError, match="no weights 'none-such'"):
        Reconstruct(weights="none-such")(Scan(geometry=ONE.geometry), never())


@pytest.mark.parametrize("method", ["modl", "cg_sense", "l1_wavelet", "zero_filled"])
def test_warming_runs_the_method(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scan, made = Scan(geometry=ONE.geometry, models=Fixed(modl=small_modl())), []
    original = Reconstruct._image

    def image(self: Reconstruct, *arguments: Any) -> Any:
        made.append(original(self, *arguments)[0])
        return made[-1], {}

    monkeypatch.setattr(Reconstruct, "_image", image)
    Reconstruct(method=method).warm(scan)
    assert [tuple(one.shape) for one in made] == [(32, 32)]
    assert torch.isfinite(torch.view_as_real(made[0])).all()


def test_warming_estimates_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = coil_maps._estimate
    monkeypatch.setattr(coil_maps, "_estimate", lambda *a: made.append(original(*a)[0]))
    CoilMaps().warm(Scan(geometry=ONE.geometry))
    assert [one.shape for one in made] == [(2, 32, ONE.geometry.n_ky)]


def prescan(counters: list[int], slice_: int = 0, repetition: int = 0) -> PreScan:
    rows = np.array(counters)
    lines = ONE.hybrid(slice_)[:, :, rows].astype(np.complex64)
    return PreScan(key=ImageKey(0, slice_, 0, 0, repetition, 0), lines=lines, counters=rows)


def with_maps(*items: Item) -> list[Frame]:
    out = run((CoilMaps(),), Scan(geometry=ONE.geometry), items)
    return [item for item in out if isinstance(item, Frame)]


def csm_of(item: Frame) -> np.ndarray:
    assert item.csm is not None
    return item.csm


def test_maps_combine_the_coils_to_the_root_of_their_squares() -> None:
    (out,) = with_maps(prescan(list(range(4, 16))), frame(rows=np.ones(20, bool)))
    images = ifft(out.kspace, 2)
    combined = np.abs((csm_of(out).conj() * images).sum(0))
    rss = np.linalg.norm(images, axis=0)
    inside = rss > 0.3 * rss.max()
    np.testing.assert_allclose(combined[inside], rss[inside], rtol=0.05)


def test_maps_of_a_prescan_serve_all_frames_of_its_slice() -> None:
    frames = with_maps(
        prescan(list(range(5, 15)), 0),
        prescan(list(range(5, 15)), 1),
        frame(),
        frame(slice_=1),
        replace(frame(), key=frame().key._replace(contrast=1)),
        replace(frame(), key=frame().key._replace(repetition=3)),
    )
    first, other, contrast, repetition = (csm_of(f) for f in frames)
    assert not np.allclose(first, other)
    np.testing.assert_array_equal(first, contrast)
    np.testing.assert_array_equal(first, repetition)


def test_maps_over_the_limit_are_made_again_from_their_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items = [prescan(list(range(4, 16)), s) for s in (0, 1)] + [frame(slice_=s) for s in (0, 1)]
    expected = [csm_of(out) for out in with_maps(*items)]
    made: list[int] = []
    estimate = coil_maps._from_prescan

    def counted(scan: Scan, item: PreScan) -> Any:
        made.append(item.key.slice)
        return estimate(scan, item)

    monkeypatch.setattr(coil_maps, "_from_prescan", counted)
    monkeypatch.setattr(coil_maps, "KEPT", expected[0].nbytes)
    for out, csm in zip(with_maps(*items), expected, strict=True):
        np.testing.assert_array_equal(csm_of(out), csm)
    assert made == [0, 1, 0]


def test_images_beyond_those_that_the_header_names_have_maps_of_their_own_lines() -> None:
    later = replace(frame(slice_=1), key=frame().key._replace(repetition=3))
    again = replace(frame(slice_=1), key=frame().key._replace(repetition=4))
    _, a, b = with_maps(prescan(list(range(6, 15))), frame(), later, again)
    (own,) = with_maps(frame(slice_=1))
    np.testing.assert_array_equal(csm_of(a), csm_of(own))
    assert csm_of(b) is csm_of(a), "from then on maps are kept"


def test_a_new_prescan_of_a_slice_replaces_its_maps() -> None:
    a, b = with_maps(
        prescan(list(range(5, 15))), frame(), prescan(list(range(7, 13)), repetition=1), frame()
    )
    assert not np.allclose(csm_of(a), csm_of(b))


def test_without_a_prescan_maps_come_from_the_frame_s_calibration() -> None:
    (a,) = with_maps(frame())
    (b,) = with_maps(prescan(list(range(6, 15))), frame())
    np.testing.assert_array_equal(csm_of(a), csm_of(b))


def test_of_a_calibration_with_gaps_the_longest_run_is_used() -> None:
    (a,) = with_maps(prescan([0, 2, 3, *range(6, 15), 18]), frame())
    (b,) = with_maps(prescan(list(range(6, 15))), frame())
    np.testing.assert_array_equal(csm_of(a), csm_of(b))


def folded(given: PreScan | Frame) -> PreScan | Frame:
    """See the same object in half the field of view, whose width it overflows."""
    wide = coil_images(16, 40, 3, given.key.slice)
    kspace = fft(np.roll(wide[:, :, :20] + wide[:, :, 20:], 10, 2), 2).astype(np.complex64)
    if isinstance(given, PreScan):
        return replace(given, lines=kspace[:, :, given.counters])
    return replace(given, kspace=kspace * given.mask)


def test_an_object_that_overflows_is_in_the_meta_and_once_per_slice_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scan, lines = Scan(geometry=ONE.geometry), list(range(4, 16))
    items = [
        folded(prescan(lines, 1)),
        prescan(lines, 0),
        *(frame(slice_=slice_) for slice_ in (0, 1, 1)),
    ]
    out = [item for item in run((CoilMaps(),), scan, items) if isinstance(item, Frame)]
    assert [item.meta["fov_folded"] for item in out] == ["false", "true", "true"]
    warnings = [r.getMessage() for r in caplog.records if "overflows the field" in r.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].startswith("slice 1: ")
    assert scan.counts == {FOLDED: 1}


def test_maps_of_a_frame_s_own_lines_say_so_too() -> None:
    twelve = np.isin(np.arange(20), range(4, 16))
    given = replace(frame(rows=np.ones(20, bool)), calibration=twelve)
    (out,) = with_maps(folded(given))
    assert out.meta["fov_folded"] == "true"


def test_of_few_lines_nothing_is_said_about_the_field_of_view() -> None:
    (out,) = with_maps(folded(prescan(list(range(8, 12)))), frame())
    assert "fov_folded" not in out.meta


@pytest.mark.parametrize("n", [0, 1, 3])
def test_too_few_calibration_lines_are_a_clear_error(n: int) -> None:
    few = replace(frame(), calibration=np.isin(np.arange(20), range(10, 10 + n)))
    with pytest.raises(GadgetError, match=f"slice 0 has {n} neighbouring lines? .*at least 4"):
        with_maps(few)
    if n:
        with pytest.raises(GadgetError, match=f"slice 0 has {n} neighbouring lines? "):
            with_maps(prescan(list(range(10, 10 + n))))
