"""The example sequence in C: it builds without a warning and keeps every rule, over CURVE too."""

import shutil
import subprocess
from pathlib import Path

import pytest

from gadgets.conformance.sequence_bench import SequenceBench
from gadgets.conformance.sequence_trace import TRIALS
from gadgets.mask.curve_keys import ServerKeys, make_keys
from tests.gadgets.helpers.processes import started

pytestmark = pytest.mark.slow  # the C client waits as long as it may

SOURCE = Path(__file__).parents[3] / "vendor" / "sequence_client.c"
COMPILER = shutil.which("gcc")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if COMPILER is None:
        pytest.skip("gcc is not here")
    probe = [COMPILER, "-E", "-include", "zmq.h", "-x", "c", "/dev/null", "-o", "/dev/null"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("zmq.h is not here (Debian: libzmq3-dev)")
    program = tmp_path_factory.mktemp("c") / "sequence_client"
    flags = ["-O1", "-g", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(
        [COMPILER, *flags, *sanitizers, "-o", program, SOURCE, "-lzmq", "-lm"], check=True
    )
    return program


@pytest.mark.parametrize("curve", [False, True])
def test_the_c_client_keeps_every_rule(built: Path, curve: bool, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    make_keys(folder, ["scanner"])
    keys = ServerKeys.load(folder / "host") if curve else None
    with SequenceBench("tcp://127.0.0.1:*", 0, keys=keys, grace_s=0.4) as bench:
        command = [built, "--mask", bench.endpoint, "--mrd", f"127.0.0.1:{bench.port}"]
        command += ["--slices", str(len(TRIALS)), "--deadline-ms", "300", "--tr-ms", "0.2"]
        command += ["--keys", folder / "scanner", "--scans", "2", "--wait-s", "1"] if curve else []
        with started(command, stdout=subprocess.PIPE, text=True) as process:
            found = bench.run(30.0)
            output, _ = process.communicate(timeout=30)
    assert [(v.rule.name, v.detail) for v in found if v.status not in ("pass", "skipped")] == []
    assert process.returncode == 0
    assert output.splitlines()[-1] == "13 slices, 8 on the fallback, 0 images"


def test_the_c_client_ends_with_an_error_where_no_host_is(built: Path) -> None:
    done = subprocess.run(
        [built, "--mrd", "127.0.0.1:1"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "cannot connect to the MRD host" in done.stderr
