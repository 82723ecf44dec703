"""The node under the C++ Gadgetron.

It is started as `python -m gadgetron PORT gadgets.external pipeline` where the XML says

    <external>
      <execute name="gadgets.external" target="pipeline" type="python"/>
      <configuration> <gadget class=.../> ... </configuration>
    </external>

The gadgets run as in our own host, front here and the heavy end in a worker process, for this one
scan. `<configuration>` may have the attributes `mask_endpoint` (of `mnet maskd` or of a running
`mnet serve`; this process only connects), `mask_keys` (our folder of keys, where the channel uses
CURVE), `device` (auto, cpu, cuda:N), `gadgets` (a folder of gadgets beside ours) and `stall_s` (for
how long Gadgetron may take no byte of ours until the scan ends, in seconds).

Whatever goes wrong ends with ERROR and its traceback at the client, and a status that is not 0.
"""

import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from . import logs
from .errors import ConfigError
from .host.choice import node_configuration
from .host.scan_run import Services
from .host.session import PARENT, Kind, serve
from .limits.settings import Limits
from .limits.waiting import prepare
from .mask.curve_keys import ClientKeys
from .mask.recon_end import Observer, ReconLink
from .mask.recon_port import RemoteReconPort
from .mrd.ismrmrd_patch import runs_our_node
from .mrd.items import Image
from .mrd.messages import ConfigScript, Header
from .pipeline.build import load
from .pipeline.catalogue import OURS, Catalogue
from .pipeline.models import Models
from .pipeline.own_gadgets import own_gadgets
from .worker.handle import Worker, WorkerScan
from .worker.memory import keep_memory

SETTINGS = {
    "mask_endpoint": "tcp://127.0.0.1:9004",
    "mask_keys": "",
    "device": "auto",
    "gadgets": "",
    "stall_s": "30",
}


def pipeline(connection: Any) -> None:
    """Run the node on a `gadgetron.external.Connection`, which has read configuration and header.

    Raises
    ------
    SystemExit
        If anything failed, after the parent was told and its input was read to the end. The message
        quotes what the client said, so it goes to the parent and not into Gadgetron's log.
    """
    logs.guard()
    keep_memory()
    _serve(connection, PARENT)


def __getattr__(name: str) -> Callable[[Any], None]:
    """Stand in for a target that is none, where a node of ours was started with it.

    Without, the package closes the connection and its client learns nothing: status 0, no image.
    """
    if name.startswith("__") or not runs_our_node(sys.orig_argv):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def refuse(*_: object) -> NoReturn:
        raise ConfigError(
            f'the XML says <execute name="gadgets.external" target="{name}">, expected '
            'target="pipeline"'
        )

    return lambda connection: _serve(connection, replace(PARENT, choose=refuse))


def _serve(connection: Any, kind: Kind) -> None:
    sock: socket.socket = connection.socket.socket
    prepare(sock)
    connection.socket.close = lambda: None  # the session says CLOSE, at the right moment
    raw = connection.raw_bytes
    ahead = ConfigScript(raw.config), Header(raw.header)
    failure = serve(sock, OneScan(raw.config).services(), kind, ahead)
    if failure is not None:
        raise SystemExit(1)


class OneScan:
    """What a host shares among its scans, for the only one of this process.

    Nothing is read or started before the session asks, so that it can tell the parent what fails.
    """

    def __init__(self, configuration: bytes) -> None:
        self._configuration = configuration
        self._worker: Worker | None = None

    def services(self) -> Services:
        """Return the services of the session."""
        return Services(
            models=Models(),
            masks=self,
            open_worker=self._open_worker,
            new_record=lambda: None,
            answer=lambda key: "Unknown query",
            wait_warm=self._warm,
            catalogue=lambda: self._catalogue,
            load=load,
            limits=self._limits(),
        )

    def open(self, scan_token: str | None, observe: Observer | None = None) -> ReconLink:
        """Connect to the mask channel; the scan goes on without masks where nobody binds it.

        Raises ConfigError for keys that are not there and endpoints that need some.
        """
        folder = self._settings["mask_keys"]
        keys = ClientKeys.load(Path(folder)) if folder else None
        try:
            port = RemoteReconPort(self._settings["mask_endpoint"], keys)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return port.open(scan_token, observe)

    def _limits(self) -> Limits:
        """Return the limits; what is wrong with the settings is told when the session asks."""
        try:
            return Limits(stall_s=float(self._settings["stall_s"]))
        except ConfigError:
            return Limits()

    @cached_property
    def _settings(self) -> dict[str, str]:
        return read_settings(self._configuration)

    @cached_property
    def _catalogue(self) -> Catalogue:
        folder = self._settings["gadgets"]
        return own_gadgets(Path(folder)) if folder else OURS

    def _warm(self) -> None:
        """Load torch here and in the worker, side by side: one after the other takes twice as long.

        The worker ends with this process, for whose end the parent waits: not here.
        """
        self._worker = Worker(self._settings["device"], self._catalogue.files)
        import torch

        torch.set_num_threads(1)  # a mask net this small only loses by more

    def _open_worker(self, xml: str, header: str, on_image: Callable[[Image], None]) -> WorkerScan:
        if self._worker is None:
            raise RuntimeError("no worker: the node is not warm")
        return self._worker.open(xml, header, on_image)


def read_settings(configuration: bytes) -> dict[str, str]:
    """Return the attributes of a node's `<configuration>`; ConfigError names unknown ones."""
    given = node_configuration(configuration).attrib
    unknown = sorted(set(given) - set(SETTINGS))
    if unknown:
        raise ConfigError(
            f"<configuration> has no attribute {', '.join(unknown)}; it has {', '.join(SETTINGS)}"
        )
    settings = SETTINGS | given
    try:
        Limits(stall_s=float(settings["stall_s"]))
    except ValueError:
        raise ConfigError(
            f"<configuration>: stall_s is {settings['stall_s']!r}, expected seconds"
        ) from None
    return settings
