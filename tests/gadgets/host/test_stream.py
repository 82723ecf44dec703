"""`mnet stream` between pipes, as its users run it: in a process of its own."""

import os
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import yaml

from gadgets.files.mrd_stream import messages, reader
from gadgets.mrd.items import Image
from gadgets.mrd.messages import Close, Header, message_buffers, read_message
from tests.gadgets.helpers import closed_loop

with warnings.catch_warnings():  # importing ismrmrd changes the warning filters
    import ismrmrd

COMMAND = [sys.executable, "-m", "gadgets.cli", "stream", "--config", "zero_filled.xml"]
COMMAND += ["--device", "cpu"]
SCAN = closed_loop.source(2)
N_KY = closed_loop.N_KY


def encoded(*parts: object) -> bytes:
    return b"".join(b"".join(message_buffers(part)) for part in parts)  # type: ignore[arg-type]


WHOLE = encoded(Header(SCAN.header), *SCAN.acquisitions, Close())


def test_an_image_leaves_before_the_next_slice_has_come(tmp_path: Path) -> None:
    process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process, process.stdin, process.stdout:
        process.stdin.write(encoded(Header(SCAN.header), *SCAN.acquisitions[:N_KY]))
        process.stdin.flush()
        read = reader(process.stdout)
        header, first = read_message(read), read_message(read)
        assert isinstance(header, Header)
        assert isinstance(first, Image)
        process.stdin.write(encoded(*SCAN.acquisitions[N_KY:], Close()))
        process.stdin.flush()
        second, end = read_message(read), read_message(read)
        assert isinstance(second, Image)
        assert isinstance(end, Close)
        assert process.stdout.read() == b""  # the C++ tools refuse anything behind CLOSE
        assert process.wait(30) == 0
    assert [int(i.header["slice"]) for i in (first, second)] == [0, 1]


def test_named_pipes_serve_as_on_tyger_and_the_ismrmrd_package_reads_what_comes_out(
    tmp_path: Path,
) -> None:
    into, out = tmp_path / "into", tmp_path / "out"
    os.mkfifo(into)
    os.mkfifo(out)
    process = subprocess.Popen([*COMMAND, "-i", str(into), "-o", str(out)])
    writer = threading.Thread(target=lambda: into.write_bytes(WHOLE))
    writer.start()
    (tmp_path / "images").write_bytes(out.read_bytes())
    writer.join(30)
    assert process.wait(30) == 0
    with ismrmrd.ProtocolDeserializer(str(tmp_path / "images")) as theirs:
        found = list(theirs.deserialize())
    assert isinstance(found[0], ismrmrd.xsd.ismrmrdHeader)
    assert [type(one) for one in found[1:]] == [ismrmrd.Image] * 2
    assert [one.getHead().slice for one in found[1:]] == [0, 1]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (WHOLE[: len(WHOLE) * 3 // 4], "mnet stream: the MRD stream is cut"),
        (b"something else", "mnet stream: message id 28531 (unknown)"),
        (encoded(Header(SCAN.header), Close()), "mnet stream: no image was made"),
    ],
)
def test_a_failure_is_a_sentence_and_a_status_and_leaves_no_close(
    tmp_path: Path, data: bytes, said: str
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(data)
    done = subprocess.run(
        [*COMMAND, "-i", str(source), "-o", str(target), "--quiet"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    if "cut" in said:  # what was whole is there
        with target.open("rb") as file, pytest.raises(Exception, match="without CLOSE"):
            assert len(list(messages(reader(file)))) > 0


ROOT = Path(__file__).parents[3]
CODESPEC = {"image", "buffers", "command", "args", "env", "workingDir", "resources", "maxReplicas"}
JOB = {"codespec", "buffers", "tags", "nodePool", "replicas"}


def test_the_job_of_the_deployment_page_has_tyger_s_fields_and_its_command_runs(
    tmp_path: Path,
) -> None:
    page = (ROOT / "docs/deployment.md").read_text()
    (text,) = re.findall(r"```yaml\n(job:.*?)```", page, re.DOTALL)
    run = yaml.safe_load(text)
    assert set(run) <= {"job", "cluster", "timeoutSeconds"}
    assert set(run["job"]) <= JOB
    codespec = run["job"]["codespec"]
    assert set(codespec) <= CODESPEC
    assert codespec["buffers"] == {"inputs": ["input"], "outputs": ["output"]}
    pipes = {"$(INPUT_PIPE)": tmp_path / "in", "$(OUTPUT_PIPE)": tmp_path / "out"}
    for pipe in pipes.values():
        os.mkfifo(pipe)
    program, *rest = [str(pipes.get(word, word)) for word in codespec["command"]]
    assert program == "mnet"
    process = subprocess.Popen([sys.executable, "-m", "gadgets.cli", *rest])
    writer = threading.Thread(target=lambda: pipes["$(INPUT_PIPE)"].write_bytes(WHOLE))
    writer.start()
    with pipes["$(OUTPUT_PIPE)"].open("rb") as file:
        found = [type(message) for message in messages(reader(file))]
    writer.join(30)
    assert process.wait(30) == 0
    assert found == [Header, Image, Image]
