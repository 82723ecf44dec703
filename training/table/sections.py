"""What the table of a study says, section by section: rows for a reader, in words and figures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.table.figures import name

Row = Mapping[str, Any]
FIGURES = ("PSNR dB", "SSIM", "HFEN", "NRMSE, paper's scale", "SSIM, fastMRI", "scans", "subjects")
LADDER = ("mnet_select", "mnet_experts", "icd_oracle")
DASH = "–"  # noqa: RUF001


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One table under its title; the first `words` columns hold text, the others figures."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int
    note: str = ""


def preface(found: Row) -> str:
    """Say who was tested, and what the intervals mean."""
    tested = sorted({s["subject"] for s in found["subjects"] if s["held_out"]})
    seen = sorted({s["subject"] for s in found["subjects"] if not s["held_out"]})
    text = (
        f"{_count(len(tested), 'test subject')} ({', '.join(tested)}); "
        f"deployed: {name(found['deployed'])}. Intervals: {found['intervals']}. They describe "
        "these subjects and allow no conclusion about other anatomy. All masks of a scan have the "
        "same number of lines, all acquirable, and hold the same calibration lines."
    )
    if seen:
        text += (
            f" Other slices of {', '.join(seen)}, which was trained on, stand apart and say "
            "nothing of unseen subjects."
        )
    return text


def verdict(found: Row) -> tuple[bool | None, str]:
    """Say whether all claims that must hold do; None where nothing was claimed."""
    if not found["claims"]:
        return None, ""
    kept = [claim["met"] for claim in found["claims"] if claim["kind"] == "must"]
    aims = [claim["met"] for claim in found["claims"] if claim["kind"] != "must"]
    text = f"Of {_count(len(kept), 'claim')} that must hold, {sum(kept)} do"
    return all(kept), f"{text}; of {_count(len(aims), 'aim')}, {sum(aims)} are met."


def sections(found: Row) -> list[Section]:
    """Return what there is to say: scores, gains, claims, and how far masks are apart."""
    closing = (_ladder(found), _gains(found), _claims(found), _distances(found))
    return [*_scores(found), *(section for section in closing if section.rows)]


def _scores(found: Row) -> Iterator[Section]:
    """Group rows: all folds, then every cohort by itself, each by acceleration."""
    pooled = [row for row in found["rows"] if row["fold"] == "all"]
    yield from _by_acceleration("All folds", pooled, found["baseline"])
    for cohort in dict.fromkeys(row["cohorts"][0] for row in found["folds"]):
        rows = [row for row in found["folds"] if row["cohorts"][0] == cohort]
        title = f"{cohort}, fold {rows[0]['fold']}" if rows[0]["fold"] != "all" else cohort
        title += "" if rows[0]["held_out"] else ", subject seen in training"
        yield from _by_acceleration(title, rows, found["baseline"])


def _by_acceleration(title: str, rows: Sequence[Row], baseline: str) -> Iterator[Section]:
    order: Callable[[Row], Any] = lambda row: (*_judge_order(row), row["nrmse"])  # noqa: E731
    against = f"against {name(baseline)}, % [95 %]"
    for acceleration in sorted({row["acceleration"] for row in rows}):
        members = [row for row in rows if row["acceleration"] == acceleration]
        n = max(row["n_subjects"] for row in members)
        actual = sum(row["acceleration_acquirable"] for row in members) / len(members)
        encoded = sum(row["acceleration_encoded"] for row in members) / len(members)
        yield Section(
            title=f"{title}: acceleration {acceleration:g} ({actual:.2f} of acquirable, "
            f"{encoded:.2f} of encoded lines), {_count(n, 'subject')}",
            head=("Sampler", "Reconstructor", "NRMSE [95 %]", against, *FIGURES),
            rows=[_cells(row) for row in sorted(members, key=order)],
            words=2,
        )


def _judge_order(row: Row) -> tuple[bool, str, bool, str]:
    return row["reconstructor"] != "modl", row["reconstructor"], row["post_trained"], row["noise"]


def _judge(row: Row) -> str:
    judge = name(row["reconstructor"])
    judge += ", post-trained" if row["post_trained"] else ""
    return judge + (", re-drawn noise" if row["noise"] == "redrawn" else "")


def _cells(row: Row) -> list[str]:
    against = DASH
    if (paired := row["paired"]) is not None:
        against = f"{paired['mean_percent']:+.2f}{_interval(paired['ci95'], '+.2f')}"
    return [
        name(row["sampler"]),
        _judge(row),
        f"{row['nrmse']:.4f}{_interval(row['ci95'], '.4f')}",
        against,
        f"{row['psnr']:.2f}",
        *(f"{row[key]:.4f}" for key in ("ssim", "hfen", "paper_nrmse", "fastmri_ssim")),
        str(row["n_scans"]),
        str(row["n_subjects"]),
    ]


def _interval(ends: Sequence[float], form: str) -> str:
    """Write an interval, or nothing where there was nothing to draw from, as of one scan."""
    low, high = ends
    return f" [{low:{form}}, {high:{form}}]" if low < high else ""


def _ladder(found: Row) -> Section:
    """Compare one mask for all with what adapts, and with the oracle, by anatomy."""
    groups: dict[tuple[str, float], dict[str, list[Row]]] = {}
    for row in found["folds"]:
        if row["held_out"] and _judge(row) == name("modl"):
            where = ", ".join(sorted({anatomy(subject) for subject in row["subjects"]}))
            samplers = groups.setdefault((where, row["acceleration"]), {})
            samplers.setdefault(row["sampler"], []).append(row)
    rows = []
    for (where, acceleration), samplers in sorted(groups.items()):
        fixed = samplers.get(found["baseline"], [])
        if not fixed or not any(sampler in samplers for sampler in LADDER):
            continue
        n = len({subject for row in fixed for subject in row["subjects"]})
        cells = [_against(samplers.get(sampler, []), fixed) for sampler in LADDER]
        rows.append([where, f"{acceleration:g}", f"{_pooled(fixed):.4f}", *cells, str(n)])
    return Section(
        title="One mask for all, masks that adapt, and the oracle",
        head=(
            "Anatomy",
            "R",
            f"NRMSE, {name(found['baseline'])}",
            *(f"{name(sampler)}, %" for sampler in LADDER),
            "subjects",
        ),
        rows=rows,
        words=1,
        note="Change of the mean NRMSE under MoDL on the same test scans; the oracle has seen the "
        "scan that it is measured on.",
    )


def anatomy(subject: str) -> str:
    """Return what a subject shows: the first part of its name."""
    return subject.partition("-")[0]


def _against(ours: Sequence[Row], fixed: Sequence[Row]) -> str:
    """Return the change in percent on the cohorts that both were tested on."""
    tested = {tuple(row["cohorts"]) for row in ours}
    same = [row for row in fixed if tuple(row["cohorts"]) in tested]
    return f"{100 * (_pooled(ours) / _pooled(same) - 1):+.2f}" if same else DASH


def _pooled(rows: Sequence[Row]) -> float:
    """Return the mean NRMSE of all scans of some rows."""
    n = sum(row["n_scans"] for row in rows)
    return float(sum(row["n_scans"] * row["nrmse"] for row in rows) / n)


def _gains(found: Row) -> Section:
    rows = [
        [
            f"{'All folds' if gain['scope'] == 'all' else gain['scope']}, {_judge(gain)}, "
            f"acceleration {gain['acceleration']:g}, {_count(gain['n_subjects'], 'subject')}",
            gain["sentence"],
        ]
        for gain in found["adaptivity"]["gains"]
    ]
    return Section(title="What adapting is worth", head=("Where", "Gain"), rows=rows, words=2)


def _claims(found: Row) -> Section:
    rows = [
        [
            claim["claim"] + (", post-trained" if claim["post_trained"] else ""),
            f"{'met' if claim['met'] else 'NOT met'} ({claim['kind']})",
            ", ".join(claim["subjects"]),
            claim["unit"],
            f"{claim['acceleration']:g}",
            f"{claim['value']:.3f}",
            f"{claim['limit']:g}",
        ]
        for claim in found["claims"]
    ]
    head = ("Claim", "Outcome", "Subjects", "Figure", "R", "found", "at most")
    return Section(title="Claims", head=head, rows=rows, words=4)


def _distances(found: Row) -> Section:
    rows = [
        [
            name(entry["sampler"]),
            f"{entry['acceleration']:g}",
            f"{entry['hamming']:.1f}",
            f"{100 * entry['share']:.0f} %",
            f"{100 * entry['different']:.0f} %",
            str(entry["n_pairs"]),
        ]
        for entry in found["adaptivity"]["distances"]
    ]
    n = len({s["subject"] for s in found["subjects"] if s["held_out"]})
    differ = ("rows that differ", "of the most possible", "pairs that differ", "pairs")
    return Section(
        title="Do masks differ between scans?",
        head=("Sampler", "R", *differ),
        rows=rows,
        words=1,
        note="Mean Hamming distance between the masks of two scans of equal plan, "
        f"{_count(n, 'subject')}; a line that moved counts twice. Zero is one mask for all.",
    )


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"
