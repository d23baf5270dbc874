"""A real browser, driven through the two pipes of its debugging protocol, which needs no package."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PATIENCE_S = 60.0
_FLAGS = (
    "--headless --remote-debugging-pipe --no-first-run --disable-gpu --hide-scrollbars --disable-dev-shm-usage "
    "--disable-extensions --disable-background-networking --proxy-server=127.0.0.1:9"
)


def path() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A page in a browser, opened at once; `errors` has the errors of its console, and `requests` its network requests."""

    def __init__(self, process: subprocess.Popen[bytes], commands: int, answers: int) -> None:
        self._process, self._commands, self._answers = process, commands, answers
        self._rest, self._number = b"", 0
        self._session: str | None = None
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._events: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(
        self,
        address: str,
        *,
        width: int = 1280,
        height: int = 900,
        dark: bool = False,
        scripts: bool = True,
    ) -> float:
        """Open a page and return the seconds until everything is loaded and drawn."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.errors, self.requests, self._events = [], [], []
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        start = time.monotonic()
        self.call("Page.navigate", url=address)
        while "Page.loadEventFired" not in self._events:
            self._read()
        self.call(
            "Emulation.setScriptExecutionDisabled", value=False
        )  # for `value`; those of the page do not start now
        self.value(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))"
        )
        return time.monotonic() - start

    def value(self, expression: str) -> Any:
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], _PATIENCE_S)
            assert ready, f"the browser says nothing for {_PATIENCE_S:.0f} s"
            piece = os.read(self._answers, 2**20)
            assert piece, f"the browser ended: exit status {self._process.poll()}"
            self._rest += piece
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, facts: dict[str, Any]) -> None:
        self._events.append(event)
        if event == "Runtime.exceptionThrown":
            self.errors.append(str(facts["exceptionDetails"].get("text")))
        elif event == "Runtime.consoleAPICalled" and facts["type"] in (
            "error",
            "warning",
            "assert",
        ):
            self.errors.append(str([argument.get("value") for argument in facts["args"]]))
        elif event == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
            self.errors.append(facts["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"])


@contextmanager
def started(program: str) -> Iterator[Browser]:
    """Start a browser with a fresh profile and without a network, and end it afterwards."""
    commands, answers = os.pipe(), os.pipe()  # what it reads; what it writes
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        sandbox = ["--no-sandbox"] if os.getuid() == 0 else []  # required as root
        words = [program, *_FLAGS.split(), *sandbox, f"--user-data-dir={profile}", "about:blank"]
        script = (
            'read_end=$1 write_end=$2; shift 2; eval "exec \\"\\$@\\" 3<&$read_end 4>&$write_end"'
        )
        process = subprocess.Popen(
            ["bash", "-c", script, "bash", str(commands[0]), str(answers[1]), *words],
            pass_fds=(commands[0], answers[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands[0])
        os.close(answers[1])
        try:
            yield Browser(process, commands[1], answers[0])
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
            os.close(commands[1])
            os.close(answers[0])
