"""The notebook of docs/python.md runs from its first cell to its last, and shows an image."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first_image.ipynb"


def cells(kind: str) -> list[str]:
    content = json.loads(NOTEBOOK.read_text())
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == kind]


@pytest.mark.slow  # torch, and two reconstructions of 320 x 320 in a process of its own
def test_the_notebook_goes_from_raw_data_to_an_image_on_screen(tmp_path: Path) -> None:
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join([*cells("code"), "plt.savefig('screen.png', dpi=50)"]))
    command = [sys.executable, str(script)]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "80 lines, predicted" in done.stdout  # 4x of the 322 acquirable lines of the sample scan
    assert float(done.stdout.partition("NRMSE ")[2].split()[0]) < 0.1  # mnet demo: 0.065
    image = pytest.importorskip("matplotlib.image").imread(tmp_path / "screen.png")
    assert image[..., :3].std() > 0.1  # black and white, not an empty axis


def test_the_notebook_is_committed_without_outputs_and_explains_every_step() -> None:
    content = json.loads(NOTEBOOK.read_text())
    assert all(cell.get("outputs", []) == [] for cell in content["cells"])
    assert len(cells("markdown")) >= len(cells("code"))
