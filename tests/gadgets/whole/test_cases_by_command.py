"""All of `shared/cases` by the command a user types: what is printed, and the status.

The images themselves are compared with the phantom in `files/test_cases.py`.
"""

from pathlib import Path

import pytest

from gadgets.cli import main
from gadgets.host.child_host import Address

# What `mnet replay` says at its end, or its sentence where it makes none; and further options.
EXPECTED: dict[str, tuple[int, str, tuple[str, ...]]] = {
    "base.ismrmrd": (0, "1 images of 96 acquisitions", ()),
    "h5_2d.h5": (0, "1 images of 96 acquisitions", ()),
    "limits_absent.h5": (0, "1 images of 96 acquisitions", ()),
    "z2.h5": (0, "1 images of 96 acquisitions", ()),
    "centre0.h5": (0, "1 images of 96 acquisitions", ()),
    "coils_sc.h5": (0, "1 images of 192 acquisitions", ()),
    "coils_noise.h5": (0, "1 images of 100 acquisitions", ()),
    "enc_ref0.h5": (0, "1 images of 80 acquisitions", ()),
    "enc_ref1.h5": (0, "1 images of 80 acquisitions", ()),
    "tse.h5": (0, "1 images of", ()),
    "grappa2.h5": (0, "1 images of", ()),
    "fm_mask.h5": (1, "1 neighbouring line around the centre of k-space, expected at least 4", ()),
    "me_zero.h5": (0, "3 images of 288 acquisitions", ()),
    "avg_nolim.h5": (0, "1 images of 288 acquisitions", ()),
    "pf_wrongcentre.h5": (0, "1 images of", ("--header", "ky_center=24")),
    "pfw_fixed.h5": (0, "1 images of", ()),
    "group_other.h5": (0, "1 images of 96 acquisitions", ()),
    "multi_meas.h5": (1, "holds 2 scans: name one with --group, of dataset_1, dataset_2", ()),
    "empty.h5": (1, "but no acquisitions", ()),
    "noncontig.h5": (0, "1 images of", ()),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_case_ends_as_the_table_says(
    name: str, shared: Path, address: Address, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shared / "cases" / name
    if not path.exists():
        pytest.skip("no cases")
    status, words, more = EXPECTED[name]
    where = f"{address.host}:{address.port}"
    assert main(["replay", str(path), "--host", where, *more]) == status
    heard = capsys.readouterr()
    assert words in heard.out + heard.err
    assert "Traceback" not in heard.err
    assert "gadgets.errors" not in heard.err


def test_every_case_is_in_the_table(shared: Path) -> None:
    folder = shared / "cases"
    if not folder.is_dir():
        pytest.skip("no cases")
    assert {p.name for p in folder.iterdir() if p.suffix != ".md"} == set(EXPECTED)
