"""A headless Chromium for tests of pages, driven over its DevTools protocol with the standard library alone."""

import base64
import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
]  # fmt: skip


def find_chromium() -> str | None:
    """The program, None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One page of a fresh browser, so wide and high; a context manager."""

    def __init__(self, width: int = 1280, height: int = 900) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        flags = [*FLAGS, f"--user-data-dir={self._folder.name}", f"--window-size={width},{height}"]
        self._process = subprocess.Popen(
            [find_chromium(), *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        try:
            self._socket = self._connected()
            for domain in ("Page", "Network", "Runtime", "Log"):
                self.call(f"{domain}.enable")
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
            self.call("Emulation.setDeviceMetricsOverride", **size)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(30)
        self._folder.cleanup()

    def _connected(self) -> socket.socket:
        """A web socket to the page; its answers are read from the socket's file."""
        file, until = Path(self._folder.name) / "DevToolsActivePort", time.monotonic() + 60
        while not file.is_file() or "\n" not in file.read_text():
            assert time.monotonic() < until and self._process.poll() is None, "no Chromium came up"
            time.sleep(0.05)
        port = int(file.read_text().split()[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=30) as answer:
            page = next(found for found in json.load(answer) if found["type"] == "page")
        path = page["webSocketDebuggerUrl"].split(str(port), 1)[1]
        found = socket.create_connection(("127.0.0.1", port), timeout=120)
        key = base64.b64encode(os.urandom(16)).decode()
        found.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._answers = found.makefile("rb")
        while self._answers.readline().strip():
            pass
        return found

    def _send(self, text: str) -> None:
        """One masked text frame."""
        data, mask = text.encode(), os.urandom(4)
        n = len(data)
        head = struct.pack("!BB", 0x81, 0x80 | n) if n < 126 else struct.pack("!BBH", 0x81, 0xFE, n)
        if n > 0xFFFF:
            head = struct.pack("!BBQ", 0x81, 0xFF, n)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
        self._socket.sendall(head + mask + masked)

    def _receive(self) -> dict[str, Any]:
        """The next message, which may come in several frames."""
        whole, last = b"", False
        while not last:
            first, n = self._answers.read(2)
            n = n & 0x7F
            if n > 125:
                n = int.from_bytes(self._answers.read(2 if n == 126 else 8))
            whole, last = whole + self._answers.read(n), bool(first & 0x80)
        return json.loads(whole)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """What a command of the protocol returns; what the page tells meanwhile is added to events."""
        number = next(self._numbers)
        self._send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := self._receive()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def run(self, script: str) -> Any:
        """The value of JavaScript in the page, of a promise what it gives."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def go(self, url: str) -> None:
        """Open a page."""
        self.call("Page.navigate", url=url)

    def wait(self, script: str, seconds: float = 60) -> Any:
        """Until JavaScript gives something true, a plain value; that."""
        until = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < until, f"never so: {script}"
            time.sleep(0.05)
        return found

    def requested(self) -> list[str]:
        """The addresses that the page has asked for."""
        self.run("0")
        sent = [found for found in self.events if found["method"] == "Network.requestWillBeSent"]
        return [found["params"]["request"]["url"] for found in sent]

    def screenshot(self, file: Path) -> None:
        """The whole page as a PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        file.write_bytes(base64.b64decode(data))
