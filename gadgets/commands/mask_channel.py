"""The commands of the mask channel by itself: `mnet maskd` and `mnet keys`."""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError
from ..host.stop import stopping

log = logging.getLogger(__name__)


def add(adder: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands."""
    _add_maskd(adder)
    _add_keys(adder)


def _add_maskd(adder: Callable[..., argparse.ArgumentParser]) -> None:
    maskd = adder("maskd", _maskd, "Run the mask channel alone, beside the C++ Gadgetron.")
    maskd.add_argument("--mask-endpoint", default="tcp://127.0.0.1:9004")
    maskd.add_argument("--mask-keys", type=Path, help="KEYS/host of `mnet keys`: use CURVE")
    maskd.add_argument("--log-json", action="store_true", help="log JSON, one object a line")


def _add_keys(adder: Callable[..., argparse.ArgumentParser]) -> None:
    keys = adder(
        "keys",
        _keys,
        "Make CURVE keys, so that the mask channel may leave this machine.",
        "Writes FOLDER/host for `mnet serve --mask-keys` and, per --client, a folder to hand\n"
        "to that scanner, whose public key goes on the host's allow-list. Run it again to add\n"
        "clients; nothing is ever overwritten.\n\n"
        "example: mnet keys keys --client scanner\n"
        "         mnet serve --mask-endpoint tcp://0.0.0.0:9004 --mask-keys keys/host\n"
        "         mnet scan DATA.h5 --host HOST:9002 --mask-endpoint tcp://HOST:9004 \\\n"
        "              --mask-keys keys/scanner",
    )
    keys.add_argument("folder", type=Path)
    keys.add_argument("--client", action="append", default=[], metavar="NAME")


def _maskd(options: argparse.Namespace) -> int:
    import zmq

    from ..mask.binder import MaskService
    from ..mask.curve_keys import ServerKeys

    with stopping() as stop:
        keys = ServerKeys.load(options.mask_keys) if options.mask_keys else None
        try:
            service = MaskService(options.mask_endpoint, keys=keys)
        except (ValueError, zmq.ZMQError) as error:
            raise ConfigError(f"cannot bind: {error}") from error
        with service:
            log.info("mask channel adaptive-mask/1 at %s", service.endpoint)
            stop.wait()
    return 0


def _keys(options: argparse.Namespace) -> int:
    from ..mask.curve_keys import HOST, make_keys

    made = make_keys(options.folder, options.client)
    for folder in made:
        what = "stays on the host" if folder.name == HOST else "goes to this client"
        print(f"{folder}: {what}")
    if not made:
        print(f"{options.folder / HOST} is there already; name a --client to add one")
    return 0
