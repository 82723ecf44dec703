"""MRD 2 and ISMRMRD: what one has as the other has it, in the types of the package mrd-python.

Its header has the content of ISMRMRD's XML under other names, and is translated as far as it is
used here: encodings, limits, system, sequence, user parameters. What it says of the subject and the
study is left out. https://ismrmrd.github.io/mrd/
"""

import re
from typing import Any, cast
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from ..errors import ConfigError
from ..mrd.geometry import parse, serialise, text
from ..mrd.header_layouts import ACQUISITION_HEADER, WAVEFORM_HEADER
from ..mrd.items import Acquisition, Waveform

_COUNTERS = (
    "kspace_encode_step_1",
    "kspace_encode_step_2",
    "average",
    "slice",
    "contrast",
    "phase",
    "repetition",
    "set",
    "segment",
)
_NUMBERS = (
    "scan_counter",
    "acquisition_time_stamp",
    "discard_pre",
    "discard_post",
    "center_sample",
    "encoding_space_ref",
    "sample_time_us",
)
_PLACES = ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position")
_LISTS = ("physiology_time_stamp", "user_int", "user_float")
# Elements of a header by the names of MRD 2, in the order of ISMRMRD's schema.
_LIMITS = tuple(f"kspace_encoding_step_{n}" for n in range(3)) + _COUNTERS[2:]
_SYSTEM = {
    "system_vendor": "systemVendor",
    "system_model": "systemModel",
    "system_field_strength_t": "systemFieldStrength_T",
    "relative_receiver_noise_bandwidth": "relativeReceiverNoiseBandwidth",
    "receiver_channels": "receiverChannels",
}
_SEQUENCE = {"t_r": "TR", "t_e": "TE", "t_i": "TI", "flip_angle_deg": "flipAngle_deg"}
_USER = {
    "user_parameter_long": ("userParameterLong", int),
    "user_parameter_double": ("userParameterDouble", float),
    "user_parameter_string": ("userParameterString", str),
}


def library() -> Any:
    """Return the package; ConfigError, with what to install, where it is not there."""
    try:
        import mrd
    except ImportError as error:
        raise ConfigError(
            "MRD 2 is read and written by the package mrd-python: pip install mnet-gadgets[mrd2]"
        ) from error
    return mrd


def acquisition(theirs: Any) -> Acquisition:
    """Return a readout of MRD 2 as ours."""
    head, data = theirs.head, np.ascontiguousarray(theirs.data, np.complex64)
    header = np.zeros(1, ACQUISITION_HEADER)[0]
    header["version"], header["flags"] = 1, int(head.flags)
    header["measurement_uid"] = head.measurement_uid
    header["active_channels"], header["number_of_samples"] = data.shape
    header["available_channels"] = data.shape[0]
    header["center_sample"] = data.shape[1] // 2
    for name in _NUMBERS:
        value = getattr(head, name)
        if value is not None:
            header[name] = value
    for name in _COUNTERS:
        header[name] = getattr(head.idx, name) or 0
    for name in (*_PLACES, *_LISTS):
        values = getattr(head, name)
        if values is not None:
            header[name][: len(values)] = values
    trajectory = theirs.trajectory
    if trajectory is None or not trajectory.size:
        return Acquisition(header=header, data=data)
    header["trajectory_dimensions"] = trajectory.shape[0]  # (dimensions, samples) there
    return Acquisition(
        header=header, data=data, trajectory=np.ascontiguousarray(trajectory.T, np.float32)
    )


def from_acquisition(mrd: Any, line: Acquisition) -> Any:
    """Return a readout as MRD 2 has it."""
    header = line.header
    counters = {name: int(header[name]) for name in _COUNTERS}
    head = mrd.AcquisitionHeader(
        flags=mrd.AcquisitionFlags(int(header["flags"])),
        idx=mrd.EncodingCounters(**counters),
        measurement_uid=int(header["measurement_uid"]),
        channel_order=list(range(line.data.shape[0])),
        **{name: header[name].item() for name in _NUMBERS},
        **{name: np.asarray(header[name], np.float32) for name in _PLACES},
        **{name: header[name].tolist() for name in _LISTS},
    )
    trajectory = np.zeros((0, 0), np.float32) if line.trajectory is None else line.trajectory.T
    return mrd.Acquisition(
        head=head, data=np.asarray(line.data), trajectory=np.ascontiguousarray(trajectory)
    )


def waveform(theirs: Any) -> Waveform:
    """Return a waveform of MRD 2 as ours."""
    header = np.zeros(1, WAVEFORM_HEADER)[0]
    header["version"] = 1
    for name in ("flags", "measurement_uid", "scan_counter", "time_stamp", "sample_time_us",
                 "waveform_id"):  # fmt: skip
        header[name] = getattr(theirs, name)
    header["channels"], header["number_of_samples"] = theirs.data.shape
    return Waveform(header=header, data=np.ascontiguousarray(theirs.data, np.uint32))


def from_waveform(mrd: Any, wave: Waveform) -> Any:
    """Return a waveform as MRD 2 has it."""
    names = ("flags", "measurement_uid", "scan_counter", "time_stamp", "sample_time_us",
             "waveform_id")  # fmt: skip
    return mrd.WaveformUint32(
        data=np.asarray(wave.data), **{name: wave.header[name].item() for name in names}
    )


def to_xml(header: Any) -> bytes:
    """Write a header of MRD 2 as ISMRMRD XML."""
    root = Element("ismrmrdHeader")
    measurement = header.measurement_information
    if measurement is not None:
        node = SubElement(root, "measurementInformation")
        _put(node, "measurementID", measurement.measurement_id)
        _put(node, "patientPosition", measurement.patient_position.name.replace("_", ""))
        for one in measurement.measurement_dependency:
            inner = SubElement(node, "measurementDependency")
            _put(inner, "dependencyType", one.dependency_type)
            _put(inner, "measurementID", one.measurement_id)
    system = header.acquisition_system_information
    if system is not None:
        node = SubElement(root, "acquisitionSystemInformation")
        for theirs, ours in _SYSTEM.items():
            _put(node, ours, getattr(system, theirs))
        for label in system.coil_label:
            inner = SubElement(node, "coilLabel")
            _put(inner, "coilNumber", label.coil_number)
            _put(inner, "coilName", label.coil_name)
    node = SubElement(root, "experimentalConditions")
    _put(node, "H1resonanceFrequency_Hz", header.experimental_conditions.h1resonance_frequency_hz)
    for encoding in header.encoding:
        _encoding_xml(SubElement(root, "encoding"), encoding)
    if header.sequence_parameters is not None:
        node = SubElement(root, "sequenceParameters")
        for theirs, ours in _SEQUENCE.items():
            for value in getattr(header.sequence_parameters, theirs):
                _put(node, ours, value)
    if header.user_parameters is not None:
        node = SubElement(root, "userParameters")
        for theirs, (ours, _) in _USER.items():
            for parameter in getattr(header.user_parameters, theirs):
                inner = SubElement(node, ours)
                _put(inner, "name", parameter.name)
                _put(inner, "value", parameter.value)
    return serialise(root)


def _encoding_xml(node: Element, encoding: Any) -> None:
    for theirs, ours in (("encoded_space", "encodedSpace"), ("recon_space", "reconSpace")):
        space = getattr(encoding, theirs)
        inner = SubElement(node, ours)
        for values, name in ((space.matrix_size, "matrixSize"),
                             (space.field_of_view_mm, "fieldOfView_mm")):  # fmt: skip
            place = SubElement(inner, name)
            for axis in "xyz":
                _put(place, axis, getattr(values, axis))
    limits = SubElement(node, "encodingLimits")
    for name in _LIMITS:
        limit = getattr(encoding.encoding_limits, name, None)
        if limit is not None:
            inner = SubElement(limits, name)
            for part in ("minimum", "maximum", "center"):
                _put(inner, part, getattr(limit, part))
    _put(node, "trajectory", encoding.trajectory.name.lower())


def from_xml(mrd: Any, xml: bytes) -> Any:
    """Return ISMRMRD XML as a header of MRD 2."""
    root = parse(xml)
    system = {theirs: text(root, f"acquisitionSystemInformation/{ours}")
              for theirs, ours in _SYSTEM.items()}  # fmt: skip
    kinds = dict.fromkeys(("system_vendor", "system_model"), str) | {"receiver_channels": int}
    sequence = {theirs: [float(e.text or 0) for e in root.findall(f"sequenceParameters/{ours}")]
                for theirs, ours in _SEQUENCE.items()}  # fmt: skip
    frequency = text(root, "experimentalConditions/H1resonanceFrequency_Hz") or "0"
    labels = [
        mrd.CoilLabelType(
            coil_number=int(text(e, "coilNumber") or 0), coil_name=text(e, "coilName") or ""
        )
        for e in root.iterfind("acquisitionSystemInformation/coilLabel")
    ]
    return mrd.Header(
        version=None,
        measurement_information=_measurement(mrd, root),
        acquisition_system_information=mrd.AcquisitionSystemInformationType(
            coil_label=labels,
            **{k: kinds.get(k, float)(v) for k, v in system.items() if v is not None},
        ),
        experimental_conditions=mrd.ExperimentalConditionsType(
            h1resonance_frequency_hz=int(float(frequency))
        ),
        encoding=[_encoding(mrd, node) for node in root.iterfind("encoding")],
        sequence_parameters=mrd.SequenceParametersType(**sequence)
        if any(sequence.values())
        else None,
        user_parameters=_user(mrd, root),
    )


def _measurement(mrd: Any, root: Element) -> Any:
    node = root.find("measurementInformation")
    if node is None:
        return None
    position = re.sub("^(HF|FF)", r"\1_", text(node, "patientPosition") or "HFS")
    position = position.replace("HF_", "H_F").replace("FF_", "F_F")
    return mrd.MeasurementInformationType(
        measurement_id=text(node, "measurementID"),
        patient_position=getattr(mrd.PatientPosition, position, mrd.PatientPosition.H_FS),
        measurement_dependency=[
            mrd.MeasurementDependencyType(
                dependency_type=text(e, "dependencyType") or "",
                measurement_id=text(e, "measurementID") or "",
            )
            for e in node.iterfind("measurementDependency")
        ],
    )


def _encoding(mrd: Any, node: Element) -> Any:
    spaces = {}
    for theirs, ours in (("encoded_space", "encodedSpace"), ("recon_space", "reconSpace")):
        size = {axis: int(text(node, f"{ours}/matrixSize/{axis}") or 1) for axis in "xyz"}
        fov = {axis: float(text(node, f"{ours}/fieldOfView_mm/{axis}") or 0) for axis in "xyz"}
        spaces[theirs] = mrd.EncodingSpaceType(
            matrix_size=mrd.MatrixSizeType(**size), field_of_view_mm=mrd.FieldOfViewMm(**fov)
        )
    limits = {
        name: mrd.LimitType(**{p: int(text(e, p) or 0) for p in ("minimum", "maximum", "center")})
        for name in _LIMITS
        if (e := node.find(f"encodingLimits/{name}")) is not None
    }
    kind = (text(node, "trajectory") or "cartesian").upper()
    return mrd.EncodingType(
        **spaces,
        encoding_limits=mrd.EncodingLimitsType(**limits),
        trajectory=getattr(mrd.Trajectory, kind, mrd.Trajectory.OTHER),
    )


def _user(mrd: Any, root: Element) -> Any:
    found: dict[str, list[Any]] = {}
    for theirs, (ours, kind) in _USER.items():
        make = getattr(mrd, f"{ours[0].upper()}{ours[1:]}Type")
        found[theirs] = [
            make(name=text(e, "name") or "", value=cast(Any, kind)(text(e, "value") or 0))
            for e in root.iterfind(f"userParameters/{ours}")
        ]
    return mrd.UserParametersType(**found) if any(found.values()) else None


def _put(parent: Element, name: str, value: object) -> None:
    if value is not None and value != "":
        SubElement(parent, name).text = str(value)
