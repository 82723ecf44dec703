import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from jinja2 import UndefinedError
from skimage.io import imread

from gadgets.report.page import Findings, write_report
from gadgets.report.physics import PhysicsFindings
from gadgets.report.pictures import grey_png, heat_png
from gadgets.report.render import write_html
from gadgets.report.verdict import verdict
from mnet.masks.densities import equispaced, low_pass, uniform_random
from mnet.masks.line_plan import LinePlan
from mnet.score.comparison import Volume
from mnet.sequence.echo_order import EchoOrder
from tests.gadgets.helpers.html_page import (
    HOSTILE,
    Page,
    assert_readable_by_all,
    assert_stands_alone,
)

N_SLICES, N_X, N_KY, CENTER = 3, 24, 40, 17


def row(sampler: str, per_slice: list[float], reconstructor: str = "modl") -> dict:
    figures = {"nrmse_rss": 0.2, "psnr": 30.0, "ssim": 0.9}
    return {
        "sampler": sampler,
        "reconstructor": reconstructor,
        "acceleration": 2.0,
        "acceleration_encoded": 2.3,
        "n_seeds": 1,
        "nrmse": float(np.mean(per_slice)),
        **figures,
        "per_slice": [{"nrmse": value, **figures} for value in per_slice],
        "nrmse_per_seed": [float(np.mean(per_slice))],
    }


def rows(adaptive: float, population: float, shuffled: float | None) -> list[dict]:
    table = [row("mnet_select", [adaptive] * 3), row("best_single", [population] * 3)]
    if shuffled is not None:
        table.append(row("shuffled", [shuffled] * 3))
    return [
        *table,
        row("uniform_random", [0.3] * 3),
        row("mnet_select", [0.15] * 3, "cg_sense"),
        row("mnet_select", [0.25] * 3, "zero_filled"),
    ]


@pytest.fixture
def plan() -> LinePlan:
    acquirable = np.zeros(N_KY, dtype=bool)
    acquirable[3:37] = True  # counters 0..33, k = 0 at row 20
    return LinePlan.of(acquirable, 2.0)


@pytest.fixture
def masks(plan) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([uniform_random(plan, rng) for _ in range(N_SLICES)])


@pytest.fixture
def findings(plan, masks) -> Findings:
    return build(plan, masks)


def build(plan: LinePlan, masks: np.ndarray, **changes) -> Findings:
    rng = torch.Generator().manual_seed(0)
    reference = 1 + torch.rand(N_SLICES, N_X, N_KY, generator=rng)
    noisy = reference + 0.1 * torch.randn(N_SLICES, N_X, N_KY, generator=rng)
    slices = [
        {
            "slice": i,
            "n_lines": int(masks[i].sum()),
            "acceleration": 2.0,
            "acceleration_nominal": 2.0,
            "mask": (np.flatnonzero(masks[i]) - 3).tolist(),
            "fallback": False,
            "reason": "predicted",
            "mask_latency_ms": 4.0 + i,
            "recon_ms": 900.0,
            "nrmse": 0.1,
            "nrmse_rss": 0.11,
            "psnr": 31.0,
            "ssim": 0.91,
        }
        for i in range(N_SLICES)
    ]
    kspace = torch.zeros(N_SLICES, 1, N_X, N_KY, dtype=torch.complex64)
    values = {
        "scan": {"slices": slices, "summary": {}},
        "volume": Volume(kspace=kspace, plan=plan),
        "center": CENTER,
        "reference": reference,
        "images": 3 * noisy,  # in a scale of its own, as images from a wire are
        "samplers": {
            "mnet_select": [masks],
            "best_single": [np.stack([low_pass(plan)] * N_SLICES)],
            "equispaced": [np.stack([equispaced(plan)] * N_SLICES)],
        },
        "rows": rows(0.10, 0.11, 0.12),
        "kept": {("uniform_random", "modl"): noisy, ("mnet_select", "cg_sense"): noisy},
        "title": "a scan",
        "details": {"data": "file.h5"},
        **changes,
    }
    return Findings(**values)


def page_of(findings: Findings, folder: Path) -> str:
    path = folder / "report.html"
    write_report(path, findings)
    return path.read_text(encoding="utf-8")


def read(findings: Findings, folder: Path) -> Page:
    return Page(page_of(findings, folder))


def test_the_page_needs_nothing_but_itself(findings, tmp_path) -> None:
    page = read(findings, tmp_path)
    assert_stands_alone(page)
    assert page.sources
    assert "http:" not in page.page
    assert "https:" not in page.page


def test_the_page_is_readable_without_eyes_and_without_a_mouse(findings, tmp_path) -> None:
    page = read(findings, tmp_path)
    assert_readable_by_all(page)
    # reference, received and two others; all but the reference with their errors
    assert len(page.all("img")) == N_SLICES * (4 + 3)
    assert {e["alt"] for e in page.all("img")} >= {
        f"{what}, slice {i}"
        for what in ("Reference: all lines", "As received", "error of As received")
        for i in range(N_SLICES)
    }


def test_no_plotting_library_is_needed(findings, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "<img" in page_of(findings, tmp_path)


def test_hostile_text_from_files_stays_text(findings, plan, masks, tmp_path) -> None:
    slices = [dict(s, fallback=True, reason=HOSTILE) for s in findings.scan["slices"]]
    slices[0]["slice"] = HOSTILE
    hostile = build(
        plan,
        masks,
        scan={"slices": slices},
        title=HOSTILE,
        details={HOSTILE: HOSTILE},
        samplers={**findings.samplers, HOSTILE: [masks]},
        rows=[*findings.rows, row(HOSTILE, [0.2] * 3)],
    )
    page = read(hostile, tmp_path)
    assert_stands_alone(page)
    assert_readable_by_all(page)
    # shown as text: three reasons and their count, a slice, a detail and its name, a mask
    assert sum(text.count(HOSTILE) for text in page.texts) >= 3 + 1 + 1 + 2 + 1
    assert HOSTILE not in page.page


@pytest.mark.parametrize(
    ("figures", "better", "said"),
    [
        ((0.10, 0.11, 0.12), True, "is better than the best fixed mask (0.1100) and than another"),
        ((0.12, 0.11, 0.13), False, "is not better than the best fixed mask (0.1100), only than"),
        ((0.12, 0.13, 0.11), False, "is not better than another slice's mask (0.1100), only than"),
        ((0.12, 0.11, 0.11), False, "is not better than the best fixed mask (0.1100) or another"),
        ((0.11, 0.11, 0.12), False, "is not better than the best fixed mask (0.1100), only than"),
        ((0.10, 0.11, None), False, "is better than the best fixed mask (0.1100); one slice alone"),
    ],
)
def test_the_first_line_says_whether_adapting_helped(
    plan, masks, tmp_path, figures, better, said
) -> None:
    table = rows(*figures)
    first = read(build(plan, masks, rows=table), tmp_path).texts[0]
    assert first.startswith(f"The adaptive mask (mean NRMSE {figures[0]:.4f}) ")
    assert said in first
    assert verdict(table).better is better


def test_the_verdict_counts_slices_in_pairs() -> None:
    table = [row("mnet_select", [0.1, 0.2, 0.1]), row("best_single", [0.2, 0.1, 0.4])]
    assert "lower in 2 of 3 slices" in verdict(table).figures


def test_a_fixed_mask_that_is_as_good_is_named() -> None:
    table = [*rows(0.10, 0.11, 0.12), row("variable_density", [0.09] * 3)]
    assert "not worse: variable density (0.0900)" in verdict(table).others


def test_without_the_control_there_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="no row of 'best_single' under MoDL"):
        verdict([row("mnet_select", [0.1])])


def test_fallbacks_are_announced_with_their_reasons(findings, plan, masks, tmp_path) -> None:
    slices = [dict(s) for s in findings.scan["slices"]]
    slices[1] |= {"fallback": True, "reason": "deadline", "mask_latency_ms": None}
    text = read(build(plan, masks, scan={"slices": slices}), tmp_path).text
    assert "1 of 3 slices were measured with the fallback mask: deadline (1)" in text
    assert "slice 1 · fallback" in text


def test_slices_that_overflow_the_field_of_view_are_announced(findings, plan, masks, tmp_path):
    assert "overflows" not in read(findings, tmp_path).text
    slices = [s | {"fov_folded": s["slice"] != 1} for s in findings.scan["slices"]]
    text = read(build(plan, masks, scan={"slices": slices}), tmp_path).text
    assert "The object overflows the field of view along ky in slices 0, 2." in " ".join(
        text.split()
    )


def test_bars_stand_on_the_rows_of_the_counters_in_the_scan(
    findings, masks, plan, tmp_path
) -> None:
    assert np.array_equal(findings.masks, masks)
    population = low_pass(plan)
    drawings = re.findall(r'<svg class="mask".*?</svg>', page_of(findings, tmp_path), re.DOTALL)
    assert len(drawings) == N_SLICES + 2  # and the two masks that do not adapt
    svg = drawings[0]
    drawn = {
        name: {float(x) - 0.5 for x in re.findall(r"M([\d.]+) ", path)}
        for name, path in re.findall(r'<path class="(\w+)" d="(.*?)"', svg)
    }
    assert drawn["cal"] == set(np.flatnonzero(plan.calibration))
    assert drawn["new"] == set(np.flatnonzero(masks[0] & ~population))
    assert drawn["cal"] | drawn["line"] | drawn["new"] == set(np.flatnonzero(masks[0]))
    assert drawn["shut"] == {0, 1, 2, 37, 38, 39}  # hatched: acquirable are rows 3 to 36


def test_pictures_hold_the_pixels_they_were_given() -> None:
    image = np.linspace(0, 2, 12 * 7).reshape(12, 7)
    read = imread(io.BytesIO(base64.b64decode(grey_png(image, 1.0).partition(",")[2])))
    assert np.abs(read - 255 * image.clip(0, 1)).max() <= 0.5
    heat = imread(io.BytesIO(base64.b64decode(heat_png(image, 2.0).partition(",")[2])))
    assert heat.shape == (12, 7, 3)
    # a larger error is never darker
    assert (np.diff(heat.reshape(-1, 3).astype(int) @ [2, 7, 1]) >= 0).all()


def test_received_images_are_scored_after_one_scale(findings, tmp_path) -> None:
    # noise of 0.1 on pixels of 1 to 2, root mean square sqrt(7/3): 0.1 / 1.53 whatever the scale
    text = read(findings, tmp_path).text
    shown = [float(x) for x in re.findall(r"NRMSE (0\.\d{4})(?= )", text)]
    assert len([x for x in shown if abs(x - 0.0655) < 0.005]) >= N_SLICES


def test_counts_of_slices_must_agree(findings, plan, masks) -> None:
    with pytest.raises(ValueError, match=r"needs 3 slices everywhere, got \{'received images': 2"):
        build(plan, masks, images=findings.images[:2])


def test_images_of_another_size_are_refused(findings, plan, masks) -> None:
    with pytest.raises(ValueError, match=r"received images are \(3, 12, 40\), the reference"):
        build(plan, masks, images=findings.images[:, :12])


def test_one_slice_gives_a_report_without_distances(findings, plan, masks, tmp_path) -> None:
    one = build(
        plan,
        masks,
        scan={"slices": findings.scan["slices"][:1]},
        volume=Volume(kspace=findings.volume.kspace[:1], plan=plan),
        reference=findings.reference[:1],
        images=findings.images[:1],
        samplers={name: [mask[:1] for mask in m] for name, m in findings.samplers.items()},
        rows=[row("mnet_select", [0.1]), row("best_single", [0.2])],
        kept={},
    )
    text = read(one, tmp_path).text
    assert "One subject, 1 slice:" in text
    assert "Rows in which" not in text


def test_a_template_that_asks_for_what_it_is_not_given_is_an_error(tmp_path) -> None:
    with pytest.raises(UndefinedError, match="'verdict' is undefined"):
        write_html(tmp_path / "report.html", "scan.html", {"title": "a scan"})


def test_the_command_line_starts_without_the_template_engine() -> None:
    program = "import sys, gadgets.cli; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def physics_findings(plan, masks) -> PhysicsFindings:
    def price(part: str, name: str, nrmse: float, played: bool = False) -> dict:
        per_slice = [nrmse] * N_SLICES
        figures = {"nrmse": nrmse, "price": nrmse / 0.1 - 1, "per_slice": per_slice}
        return {"part": part, "name": name, "played": played, **figures}

    order = EchoOrder(rule="continuous", train=4)
    echoes = np.zeros(N_KY, dtype=int)
    for shot in (*order.calibration(plan), *order.adaptive(masks[0], plan)):
        for echo, line in enumerate(shot, 1):
            echoes[line] = echo if line >= 0 else echoes[line]
    return PhysicsFindings(
        table={
            "sequence": f"turbo spin echo {HOSTILE}",
            "echo_of_centre": 3,
            "rows": [
                price("none", "undersampling alone", 0.1),
                price("order", "continuous", 0.12, played=True),
                price("order", "shuffled", 0.15),
                price("start", "0 dummy shots", 0.2),
                price("start", "1 dummy shots", 0.13, played=True),
            ],
        },
        echoes={"continuous": echoes.tolist()},
        calibration=plan.calibration,
        signals={"grey matter": [0.381, 0.437, 0.391, 0.371]},
    )


def test_the_price_of_order_and_start_stands_beside_undersampling(plan, masks, tmp_path) -> None:
    page = read(build(plan, masks, physics=physics_findings(plan, masks)), tmp_path)
    said = (
        "Undersampling alone costs an NRMSE of 0.1000; with the decay of the train, continuous, it "
        "is 0.1200 (+20 %); from rest, after 1 dummy shots, 0.1300 (+30 %)."
    )
    assert said in page.text
    assert "shuffled 0.1500 +50.0 %" in page.text
    assert "continuous · as played" in page.text
    assert "grey matter 0.381 0.437 0.391 0.371" in page.text
    assert HOSTILE not in page.page
    assert_stands_alone(page)
    assert_readable_by_all(page)


def test_every_line_is_drawn_at_its_echo(plan, masks, tmp_path) -> None:
    findings = physics_findings(plan, masks)
    page = page_of(build(plan, masks, physics=findings), tmp_path)
    (svg,) = re.findall(r'<svg class="mask echoes".*?</svg>', page, re.DOTALL)
    drawn = {float(x) - 0.5: 4 - int(y) for x, y in re.findall(r"M([\d.]+) (\d+)v1", svg)}
    echoes = findings.echoes["continuous"]
    assert drawn == {row: echo for row, echo in enumerate(echoes) if echo}


def test_a_recorded_scan_has_no_part_on_physics(findings, tmp_path) -> None:
    text = read(findings, tmp_path).text
    assert "Order of lines and steady state" not in text
    assert "modelled with --physics alone" in text
