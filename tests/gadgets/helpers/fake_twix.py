"""Siemens twix files with a patient in them, written by twixtools from made-up data."""

import contextlib
import io
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from twixtools import write_twix
from twixtools.hdr_def import MrParcRaidFileEntry
from twixtools.mdb import Mdb_local

PERSONAL = ("Doe^Jane", "19700101", "PID-0815", "6.0.4711", "Miller^Physician", "General Hospital")
PROTOCOL = {
    "tProtocolName": '"Doe^Jane"',  # some sites do
    "sKSpace.lBaseResolution": 12,
    "sKSpace.lPhaseEncodingLines": 20,
    "sKSpace.dPhaseOversamplingForDialog": 0.25,
    "sKSpace.ucTrajectory": 1,
    "sKSpace.ucDimension": 2,
    "sFastImaging.lEPIFactor": 1,
    "sSliceArray.asSlice[0].dThickness": 4.0,
    "sSliceArray.asSlice[0].dPhaseFOV": 320.0,
    "sSliceArray.asSlice[0].dReadoutFOV": 240.0,
    "sRXSPEC.alDwellTime[0]": 5000,
    "alTR[0]": 12500,
}


def block(
    data: Any, lin: int = 0, *, flags: Iterable[str] = (), centre: int = 10, **fields: Any
) -> Mdb_local:
    """Return one readout; other fields are counters, or `position` and `quaternion`."""
    one = Mdb_local(np.asarray(data, np.complex64))
    mdh = one.mdh
    mdh.CenterLin, mdh.CenterCol, mdh.TimeStamp = centre, fields.pop("column", 12), 1000 + lin
    place = mdh.SliceData
    place.SlicePos.Sag, place.SlicePos.Cor, place.SlicePos.Tra = fields.pop("position", (1, 2, 3))
    place.Quaternion[:] = fields.pop("quaternion", (1, 0, 0, 0))
    mdh.Counter.Lin = lin
    for name, value in fields.items():
        setattr(mdh.Counter, name, value)
    for flag in flags:
        one.add_flag(flag)
    return one


def write(path: Path, blocks: list[Mdb_local], n_earlier: int = 0, **protocol: Any) -> Path:
    """Write blocks as the last measurement; `protocol` replaces values, dots as two underscores."""
    values = PROTOCOL | {name.replace("__", "."): value for name, value in protocol.items()}
    header = _header({name: value for name, value in values.items() if value is not None})
    entry = np.zeros(1, MrParcRaidFileEntry)[0]
    entry["patName_"], entry["protName_"] = PERSONAL[0], "gre"
    earlier = [
        {"hdr_str": header, "mdb": [block(np.ones((2, 24)))], "raidfile_hdr": entry}
        for _ in range(n_earlier)
    ]
    last = {"hdr_str": header, "mdb": blocks, "raidfile_hdr": entry}
    with contextlib.redirect_stdout(io.StringIO()):  # it says that it adds the final block
        write_twix([*earlier, last], path)
    return path


def _header(protocol: dict[str, Any]) -> Any:
    name, birth, patient, study, physician, hospital = PERSONAL
    strings = {
        "tPatientName": name,
        "PatientBirthDay": birth,
        "PatientID": patient,
        "StudyLOID": study,
        "tPerfPhysiciansName": physician,
        "InstitutionName": hospital,
    }
    xprotocol = "<XProtocol>\n{\n"
    for key, value in strings.items():
        xprotocol += f'<ParamString."{key}">  {{ "{value}"  }}\n'
    xprotocol += '<ParamDouble."flReadoutOSFactor">  { <Precision> 6  2.000000  }\n}\n'
    lines = "".join(f"{key}\t = \t{value}\n" for key, value in protocol.items())
    ascconv = f"### ASCCONV BEGIN ###\n{lines}\n### ASCCONV END ###"
    parts = b""
    for key, text in {"Config": xprotocol, "Meas": xprotocol, "MeasYaps": ascconv}.items():
        parts += key.encode() + b"\0" + struct.pack("<I", len(text)) + text.encode()
    parts += bytes(-(len(parts) + 8) % 32)
    return np.frombuffer(struct.pack("<II", len(parts) + 8, 3) + parts, "S1")
