import base64

import pytest

from tests.gadgets.helpers.html_page import (
    HOSTILE,
    Page,
    assert_readable_by_all,
    assert_stands_alone,
)
from training.table.page import markdown, write_page
from training.table.sections import Section, sections, verdict
from training.table.table import MEANS

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAG7buVgAAAABJRU5ErkJggg=="
)


def row(sampler="mnet_select", **changes):
    values = dict.fromkeys(MEANS, 0.5) | {
        "sampler": sampler,
        "reconstructor": "modl",
        "post_trained": False,
        "noise": "measured",
        "acceleration": 4.0,
        "fold": "1",
        "cohorts": ["test-a"],
        "subjects": ["head-1"],
        "held_out": True,
        "n_scans": 4,
        "n_subjects": 1,
        "nrmse": 0.1234,
        "ci95": [0.11, 0.14],
        "paired": {"mean_percent": -1.5, "ci95": [-2.0, -1.0]},
    }
    return values | changes


def claim(kind="must", *, met=True, **changes):
    values = {
        "claim": "mnet_select against best_single",
        "kind": kind,
        "met": met,
        "subjects": ["a"],
        "acceleration": 4.0,
        "post_trained": False,
        "value": 0.25,
        "limit": 0.3,
        "unit": "% paired difference",
    }
    return values | changes


def gain(**changes):
    values = {
        "scope": "all",
        "reconstructor": "modl",
        "post_trained": False,
        "noise": "measured",
        "acceleration": 4.0,
        "n_subjects": 1,
        "sentence": "It is worth something.",
    }
    return values | changes


@pytest.fixture
def found():
    distance = {"hamming": 12.25, "share": 0.5, "different": 0.75, "n_pairs": 6}
    return {
        "rows": [row(fold="all")],
        "folds": [row(), row("best_single", paired=None, post_trained=True, ci95=[0.1, 0.1])],
        "deployed": "mnet_select",
        "baseline": "best_single",
        "adaptivity": {
            "gains": [gain()],
            "distances": [{"sampler": "mnet_select", "acceleration": 4.0, **distance}],
        },
        "subjects": [{"subject": "a", "held_out": True}, {"subject": "b", "held_out": False}],
        "claims": [claim(), claim("aim", met=False)],
        "intervals": "95 % interval",
    }


def page_of(found, folder, caption="A dot. And more."):
    picture = folder / "dot.png"
    picture.write_bytes(PNG)
    write_page(folder / "index.html", found, [(picture, caption)])
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def test_the_page_and_the_markdown_say_the_same(found, tmp_path):
    page, text = page_of(found, tmp_path), markdown(found)
    cells = [cell for s in sections(found) for line in (s.head, *s.rows) for cell in line]
    assert len(sections(found)) == 5  # pooled, one cohort, gains, claims, distances
    for cell in {*cells, *(s.title for s in sections(found)), *(s.note for s in sections(found))}:
        assert cell in text
        assert cell in page.text
    for figure in ("0.1234 [0.1100, 0.1400]", "-1.50 [-2.00, -1.00]", "12.2", "NOT met (aim)"):
        assert figure in page.texts


def test_one_scan_has_no_interval_and_a_row_without_a_partner_no_difference(found):
    assert "| best single | MoDL, post-trained | 0.1234 | – |" in markdown(found)  # noqa: RUF001


def test_one_mask_for_all_what_adapts_and_the_oracle_are_compared_by_anatomy(found):
    def rows(subject, cohort, **nrmse):
        return [
            row(sampler, nrmse=value, subjects=[subject], cohorts=[cohort], n_scans=n)
            for sampler, (value, n) in nrmse.items()
        ]

    found["folds"] = [
        *rows("head-2", "a", best_single=(0.1, 10), mnet_select=(0.09, 10), icd_oracle=(0.08, 10)),
        *rows("head-3", "b", best_single=(0.2, 30), mnet_select=(0.21, 30)),
        *rows("pelvis-x", "c", best_single=(0.3, 5), mnet_experts=(0.24, 5)),
        *rows("knee-1", "d", best_single=(0.3, 5)),  # nothing to compare with
        row("mnet_select", nrmse=0.5, post_trained=True, subjects=["pelvis-x"], cohorts=["c"]),
        row("mnet_select", nrmse=0.5, held_out=False, subjects=["pelvis-x"], cohorts=["c"]),
    ]
    (table,) = [s for s in sections(found) if s.title.startswith("One mask for all")]
    assert table.head[2:6] == (
        "NRMSE, best single",
        "MNet-select, %",
        "MNet-experts, %",
        "ICD oracle, %",
    )
    # pooled by scans: (10 * 0.09 + 30 * 0.21) / (10 * 0.1 + 30 * 0.2) - 1; the oracle has head-2
    assert table.rows == [
        ["head", "4", "0.1750", "+2.86", "–", "-20.00", "2"],  # noqa: RUF001
        ["pelvis", "4", "0.3000", "–", "-20.00", "–", "1"],  # noqa: RUF001
    ]


def test_the_page_stands_alone_and_is_readable_by_all(found, tmp_path):
    page = page_of(found, tmp_path)
    assert_stands_alone(page)
    assert_readable_by_all(page)


def test_a_picture_is_named_by_the_first_sentence_of_its_caption(found, tmp_path):
    page = page_of(found, tmp_path)
    (image,) = page.all("img")
    assert image["alt"] == "A dot"
    assert image["src"] == f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert "A dot. And more." in page.texts


def test_rows_of_real_scans_stand_first(found, tmp_path):
    real = Section(title="Real scans", head=("Method", "NRMSE"), rows=[["MoDL", "0.1"]], words=1)
    titles = [line for line in markdown(found, [real]).splitlines() if line.startswith("## ")]
    assert titles == ["## Real scans", *(f"## {s.title}" for s in sections(found))]
    write_page(tmp_path / "index.html", found, [], [real])
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert page.text.index("Real scans") < page.text.index(sections(found)[0].title)


@pytest.mark.parametrize(
    ("claims", "held", "colour"),
    [
        ([], None, ""),
        ([claim(), claim("aim", met=False)], True, "good"),
        ([claim(met=False), claim("aim")], False, "bad"),
    ],
)
def test_the_top_says_whether_what_must_hold_does(found, tmp_path, claims, held, colour):
    found["claims"] = claims
    assert verdict(found)[0] is held
    (header,) = page_of(found, tmp_path).all("header")
    assert header["class"] == colour


def test_the_top_counts_claims_and_aims(found):
    assert verdict(found)[1] == "Of 1 claim that must hold, 1 do; of 1 aim, 0 are met."


def test_hostile_text_stays_text(found, tmp_path):
    found |= {
        "rows": [row(HOSTILE, fold="all")],
        "folds": [row(HOSTILE, cohorts=[HOSTILE], fold=HOSTILE)],
        "deployed": HOSTILE,
        "baseline": HOSTILE,
        "adaptivity": {"gains": [gain(scope=HOSTILE, sentence=HOSTILE)], "distances": []},
        "claims": [claim(claim=HOSTILE, subjects=[HOSTILE])],
        "subjects": [{"subject": HOSTILE, "held_out": True}],
        "intervals": HOSTILE,
    }
    page = page_of(found, tmp_path, caption=HOSTILE)
    assert_stands_alone(page)
    assert_readable_by_all(page)
    # as text: preface 3, pooled table 2, cohort's table 4, gain 2, claim 2, caption 1
    assert page.text.count(HOSTILE) == 14
    assert HOSTILE not in page.page
