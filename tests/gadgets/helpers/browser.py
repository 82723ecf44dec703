"""A real Chromium without a window, over its own pipe: no driver and no package is needed.

The Chrome DevTools Protocol as JSON ended by NUL, on file descriptors 3 and 4 of the browser.
"""

import base64
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
WAIT_S = 300
# Resolves once an expression is true, looked at whenever the document changes.
UNTIL = """new Promise((resolve) => {
  const look = () => { if (%s) { watch.disconnect(); resolve(true); } };
  const watch = new MutationObserver(look);
  watch.observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
  look();
})"""


class Browser:
    """One page of a browser; `requests` are the addresses that it has asked for."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._number = 0
        self._replies: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self.requests: list[str] = []
        self.complaints: list[str] = []  # of the page's scripts, and of its security policy
        self._session: str | None = None
        self._loaded = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")

    def open(self, url: str, width: int, height: int, *, touch: bool = False) -> None:
        """Load a page in a window of this size in CSS pixels."""
        self.resize(width, height, touch=touch)
        self._loaded.clear()
        self._call("Page.navigate", url=url)
        assert self._loaded.wait(WAIT_S)

    def resize(self, width: int, height: int, *, touch: bool = False) -> None:
        """Give the window another size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, awaited if it is a promise."""
        answer = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait for the page to change so that a condition holds."""
        assert self.evaluate(UNTIL % condition)

    def text(self, selector: str) -> str:
        """Return the text of an element."""
        found: str = self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")
        return found

    def press(self, key: str) -> None:
        """Press and release a key, as Tab, Enter or Escape."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self._call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **(text if kind == "keyDown" else {}),
            )

    def prefer(self, feature: str, value: str) -> None:
        """Set a preference of the user, as prefers-reduced-motion."""
        self._call("Emulation.setEmulatedMedia", features=[{"name": feature, "value": value}])

    def accessibility(self) -> list[dict[str, Any]]:
        """Return the nodes that a screen reader is told of."""
        nodes: list[dict[str, Any]] = self._call("Accessibility.getFullAXTree")["nodes"]
        return [node for node in nodes if not node["ignored"]]

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write what is to be seen as PNG."""
        shot = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        answer = self._replies.get(timeout=WAIT_S)
        assert answer["id"] == self._number
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self) -> None:
        rest = b""
        while data := os.read(self._answers, 1 << 16):
            *whole, rest = (rest + data).split(b"\0")
            for message in map(json.loads, whole):
                if "id" in message:
                    self._replies.put(message)
                elif message["method"] == "Page.loadEventFired":
                    self._loaded.set()
                elif message["method"] == "Network.requestWillBeSent":
                    self.requests.append(message["params"]["request"]["url"])
                elif message["method"] == "Runtime.exceptionThrown":
                    self.complaints.append(str(message["params"]["exceptionDetails"]))
                elif message["method"] == "Log.entryAdded":
                    self.complaints.append(message["params"]["entry"]["text"])


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start a browser whose files are in `profile`, and end it."""
    assert PROGRAM is not None
    their_commands, commands = os.pipe()
    answers, their_answers = os.pipe()
    options = ["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"]
    options += ["--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run"]
    options += ["--disable-background-networking", "--disable-component-update"]
    options += [f"--user-data-dir={profile}"]

    # The browser wants its ends of the pipes as 3 and 4.
    shell = f'exec "$@" 3<&{their_commands} 4>&{their_answers}'
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", PROGRAM, *options],
        pass_fds=[their_commands, their_answers],
        stderr=subprocess.DEVNULL,
    )
    os.close(their_commands)
    os.close(their_answers)
    try:
        yield Browser(commands, answers)
    finally:
        os.close(commands)
        process.terminate()
        process.wait(20)
