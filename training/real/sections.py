"""What the bench of real scans says, section by section; the study's page and the README have it.

`found` is what `training.real.run` returns, or reads back from JSON.
"""

from collections.abc import Mapping
from typing import Any

from training.real.means import OF_PEOPLE, groups
from training.table.figures import name
from training.table.sections import DASH, Section

Row = Mapping[str, Any]
DEPLOYED = "mnet_select"
PEERS = ("cg_sense", "l1_wavelet", "bart_l1_wavelet")
NAMES = {
    "l1_wavelet": "l1-wavelet (sigpy)",
    "bart_l1_wavelet": "l1-wavelet (BART)",
    "family_1_1": "family member (1, 1)",
    "family_oracle": "best family member (oracle)",
    "vetted_oracle": "best vetted mask (oracle)",
    "best_single": "best single (deployed)",
}
FIGURES = {
    "nrmse": "NRMSE",
    "nrmse_plain": "unscaled",
    "nrmse_magnitude": "of magnitudes",
    "ssim": "SSIM",
    "psnr": "PSNR dB",
    "hfen": "HFEN",
}


def called(key: str) -> str:
    """Name a sampler or a method to a reader."""
    return NAMES.get(key) or name(key)


def preface(found: Row) -> str:
    """Say what was played, and what the figures mean."""
    people = sorted({f["subject"] for f in found["files"] if not f["phantom"]})
    phantoms = sorted({f["subject"] for f in found["files"] if f["phantom"]})
    text = (
        f"Measured k-space, nothing simulated. People: {', '.join(people) or DASH}. Phantoms: "
        f"{', '.join(phantoms) or DASH}. Means are over subjects, not files. All methods get the "
        "same lines and the same maps of the calibration lines; NRMSE is of complex images after "
        "one complex scale, against the image of all lines, noise included. Each l1-wavelet is the "
        f"best of three weights by NRMSE ({', '.join(found['wavelet_weights'])}), which no scanner "
        f"can choose: that favours it. MoDL: {found['weights']}."
    )
    return " ".join([text, *found["left_out"]])


def sections(found: Row) -> list[Section]:
    """Return everything: methods, samplers, each file, invariances and small things."""
    every = [
        *_methods(found),
        *_samplers(found),
        _against_peers(found),
        _files(found),
        _invariances(found),
        _inserted(found),
    ]
    return [section for section in every if section.rows]


def summary(found: Row) -> list[Section]:
    """Return what stands first on a study's page: methods and samplers on real scans."""
    return [s for s in (*_methods(found), *_samplers(found)) if s.rows]


def readme_rows(found: Row) -> str:
    """Return the README's Markdown rows of real scans: methods under the deployed mask, people."""
    rows = [m for m in found["means"] if m["of"] == OF_PEOPLE and m["sampler"] == DEPLOYED]
    accelerations = sorted({m["acceleration"] for m in rows})
    n = max((m["n_subjects"] for m in rows), default=0)
    head = [f"real scans, people: {n}", *(f"{a:g}x NRMSE / SSIM" for a in accelerations)]
    lines = [head, ["---"] * len(head)]
    for (method,), members in groups(rows, ("method",)).items():
        by = {m["acceleration"]: m for m in members}
        cells = [f"{by[a]['nrmse']:.4f} / {by[a]['ssim']:.4f}" for a in accelerations]
        lines.append([called(method), *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _methods(found: Row) -> list[Section]:
    rows = [m for m in found["means"] if m["sampler"] == DEPLOYED]
    return [
        Section(
            title=f"Real scans, {of}: methods under the deployed mask, acceleration {a:g}",
            head=("Method", *FIGURES.values(), "subjects"),
            rows=[[called(m["method"]), *_cells(m)] for m in members],
            words=1,
        )
        for (of, a), members in groups(rows, ("of", "acceleration")).items()
    ]


def _samplers(found: Row) -> list[Section]:
    wide = {m["method"] for m in found["means"] if m["sampler"] != DEPLOYED}
    rows = [m for m in found["means"] if m["method"] in wide]
    return [
        Section(
            title=f"Real scans, {of}: samplers under {called(method)}, acceleration {a:g}",
            head=("Sampler", *FIGURES.values(), "subjects"),
            rows=[
                [called(m["sampler"]), *_cells(m)]
                for m in sorted(members, key=lambda m: float(m["nrmse"]))
            ],
            words=1,
        )
        for (of, method, a), members in groups(rows, ("of", "method", "acceleration")).items()
    ]


def _cells(row: Row) -> list[str]:
    digits = {"psnr": 2}
    return [*(f"{row[key]:.{digits.get(key, 4)}f}" for key in FIGURES), str(row["n_subjects"])]


def _against_peers(found: Row) -> Section:
    rows = []
    deployed = [r for r in found["rows"] if r["sampler"] == DEPLOYED]
    for (file, a, n), members in groups(deployed, ("file", "acceleration", "slice")).items():
        by = {r["method"]: r for r in members}
        peers = [by[p] for p in PEERS if p in by]
        if "modl" not in by or not peers:
            continue
        least, most = min(peers, key=lambda r: r["nrmse"]), max(peers, key=lambda r: r["ssim"])
        ratio = by["modl"]["nrmse"] / least["nrmse"]
        rows.append(
            [
                file,
                f"{n}",
                f"{a:g}",
                f"{ratio:.3f}",
                called(least["method"]),
                f"{by['modl']['ssim'] - most['ssim']:+.4f}",
            ]
        )
    return Section(
        title="MoDL against the best of its peers, scan by scan",
        head=("File", "slice", "R", "NRMSE, ratio", "to", "SSIM, difference to the best"),
        rows=rows,
        words=1,
        note="Below 1 and above 0 MoDL is better.",
    )


def _files(found: Row) -> Section:
    rows = [r for r in found["rows"] if r["sampler"] == DEPLOYED]
    return Section(
        title="Every scan under the deployed mask",
        head=("File", "Method", "slice", "R", "setting", *list(FIGURES.values())),
        rows=[
            [
                r["file"],
                called(r["method"]),
                str(r["slice"]),
                f"{r['acceleration']:g}",
                r["which"] or DASH,
                *_cells({**r, "n_subjects": 1})[:-1],
            ]
            for r in rows
        ],
        words=2,
    )


def _invariances(found: Row) -> Section:
    rows = []
    judged = groups(found["invariances"], ("transformation", "method", "acceleration"))
    for (what, method, a), members in judged.items():
        worst = max(members, key=lambda r: abs(r["change"]))
        met = "yes" if abs(worst["change"]) <= found["target"] else "NO"
        sizes = [abs(r["change"]) for r in members]
        rows.append(
            [
                what,
                called(method),
                f"{a:g}",
                f"{100 * sum(sizes) / len(sizes):.2f}",
                f"{100 * worst['change']:+.2f}",
                worst["file"],
                met,
            ]
        )
    return Section(
        title="What must not matter: change of NRMSE in percent",
        head=("Transformation", "Method", "R", "mean size", "largest", "in", "within target"),
        rows=rows,
        words=2,
        note=f"The target is {100 * found['target']:g} %. Mask and maps are transformed alike.",
    )


def _inserted(found: Row) -> Section:
    rows = [
        [
            f"{m['shape']}, {m['size']} pixels",
            called(m["method"]),
            f"{100 * m['contrast']:g} %",
            f"{m['acceleration']:g}",
            *(f"{m[key]:.3f}" for key in ("recovered", "lowest", "false")),
            DASH if m["cnr"] is None else f"{m['cnr']:.2f}",  # an exact image has no noise
            str(m["n_subjects"]),
        ]
        for m in found["inserted_means"]
    ]
    return Section(
        title="Small things: recovered contrast and false structure",
        head=(
            "Object",
            "Method",
            "contrast",
            "R",
            "recovered",
            "lowest",
            "false structure",
            "contrast to noise",
            "subjects",
        ),
        rows=rows,
        words=2,
        note="Objects of so much of the local brightness inside tissue of real scans. Recovered: "
        "1 is perfect. False structure: what of the difference with and without objects lies "
        "outside them, relative to the true difference. Both compare two images; contrast to noise "
        "is that of the single image.",
    )
