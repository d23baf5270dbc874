"""A fork server: a process imports the modules of a run, runs no tensor operation, and forks for each case.

As a program (`python -m tests.forked [MODULE ...]`) it is the server: one JSON request a line on standard input, one
JSON answer a line on standard output. `Server` and `Case` are the test's side of it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).parent.parent
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_START_S = 600.0  # its imports take 10 s on an idle machine, and minutes on a busy one


class Case:
    """One forked command line: `pid` is its process, and its process group."""

    def __init__(self, server: Server, pid: int, out: Path, err: Path) -> None:
        self._server, self.pid, self._out, self._err = server, pid, out, err

    def poll(self) -> int | None:
        """Return the exit code, -N if signal N ended the process, or None while it runs; `wait` waits for the end."""
        return self._server.ended(self.pid, 0.0)

    def wait(self, timeout_s: float = 180.0) -> int:
        code = self._server.ended(self.pid, timeout_s)
        assert code is not None, f"still running after {timeout_s} s: {self.err}"
        return code

    def send(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process and all processes that it started, and wait until they have ended."""
        if self.poll() is None:
            for end in (os.killpg, os.kill):  # just forked, it leads no group yet
                with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                    end(self.pid, signal.SIGKILL)
            self.wait(10)

    @property
    def out(self) -> str:
        return self._out.read_text(errors="replace")

    @property
    def err(self) -> str:
        return self._err.read_text(errors="replace")


class Server:
    """The process that forks; ends with the block.

    Forks write their output to `folder` and call the program in `checkout`; `imports` are loaded before a fork.
    """

    def __init__(self, folder: Path, checkout: Path = ROOT, imports: Sequence[str] = ()) -> None:
        self._folder, self._checkout, self._imports, self._numbers = (
            folder,
            checkout,
            imports,
            count(),
        )
        self._ended: dict[int, int] = {}
        self._unread = b""

    def __enter__(self) -> Server:
        variables = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(self._folder / "hub")}
        variables |= {"PYTHONPATH": f"{self._checkout}{os.pathsep}{ROOT}"}
        command = [sys.executable, "-m", "tests.forked", *self._imports]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=variables,
            cwd=self._checkout,
        )
        ready = self._message(_START_S)
        assert ready == {"ready": True}, f"the fork server was not ready in {_START_S:g} s: {ready}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def start(
        self,
        words: list[str],
        *,
        more: Mapping[str, str] = _NOTHING,
        hook: str = "",
        limits: Mapping[str, int] = _NOTHING,
        folder: Path | None = None,
    ) -> Case:
        """Fork a child that calls the command line, `words` without the program's name.

        `more` are environment variables; a hook "module:function:argument" is called in the child before the command line,
        to inject faults; `limits` has names of the module resource, such as RLIMIT_FSIZE; `folder` is where it works.
        """
        assert self._process.stdin is not None
        number = next(self._numbers)
        out, err = self._folder / f"{number}.out", self._folder / f"{number}.err"
        request = {
            "words": words,
            "variables": dict(os.environ | more),
            "folder": str(folder or os.getcwd()),
        }
        request |= {"out": str(out), "err": str(err), "hook": hook, "limits": dict(limits)}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        while (message := self._message(30.0)) is not None:
            if "pid" in message:
                self._ended.pop(message["pid"], None)
                return Case(self, message["pid"], out, err)
            self._ended[message["ended"]] = message["code"]
        raise AssertionError("the fork server does not answer")

    def ended(self, pid: int, timeout_s: float) -> int | None:
        end = time.monotonic() + timeout_s
        while pid not in self._ended:
            message = self._message(max(0.0, end - time.monotonic()))
            if message is None:
                return None
            self._ended[message["ended"]] = message["code"]
        return self._ended[pid]

    def _message(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the server's next message, or None if no message arrives in time."""
        assert self._process.stdout is not None
        end = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            if not select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))[
                0
            ]:
                return None
            more = os.read(self._process.stdout.fileno(), 65536)
            assert more, "the fork server has ended"
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


def _serve() -> None:
    """Answer requests until standard input ends."""
    ours = [
        "config.compose", "commands.run", "stages.build", "stages.align", "stages.finetune", "cli",
        "commands.list",
    ]  # fmt: skip
    names = ["torch", "transformers.models.bert.modeling_bert", "hydra", "accelerate", "ot"]
    names += [
        *(f"orca_cli.{name}" for name in ours),
        "tests.reliability.phases",
        "tests.reliability.workloads",
    ]
    for name in (*names, *sys.argv[1:]):
        importlib.import_module(name)
    from orca_cli.config import compose

    with (
        compose.session() as session
    ):  # the first overrides that Hydra's parser reads take as long as a short run
        session.compose(
            ["metric=none", "align.lr=1e-3", "source.size=99", "paths.runs=a/b", "seed=1"]
        )
    from orca_cli.runs import program

    program.digest()  # takes about a second, and every run records it
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    os.set_blocking(readable, False)
    signal.set_wakeup_fd(writable)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    _tell({"ready": True})
    unread = b""
    while True:
        try:
            ready, _, _ = select.select([0, readable], [], [])
        except InterruptedError:
            continue
        if readable in ready:
            os.read(readable, 4096)
            _reap()
        if 0 in ready:
            more = os.read(0, 65536)
            if not more:
                os._exit(0)  # taking all packages down takes a second
            unread += more
            while b"\n" in unread:
                line, _, unread = unread.partition(b"\n")
                _fork(json.loads(line), (readable, writable))


def _tell(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            _tell({"ended": ended[0], "code": os.waitstatus_to_exitcode(ended[1])})


def _fork(request: dict[str, Any], pipe: tuple[int, int]) -> None:
    pid = os.fork()
    if pid:
        _tell({"pid": pid})
        return
    code = 70  # ours, for a fault of the harness itself; no command returns it
    try:
        _become(request, pipe)
        from orca_cli.cli import main

        if request["hook"]:
            module, function, argument = request["hook"].split(":", 2)
            getattr(importlib.import_module(module), function)(argument)
        code = main()  # of sys.argv, as the program does
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 70
    except BaseException:  # noqa: BLE001 - whatever ends the child is the case's own affair
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _become(request: dict[str, Any], pipe: tuple[int, int]) -> None:
    """Turn the fork into a process like one that a shell starts."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor in pipe:
        os.close(descriptor)
    for number, name in enumerate((os.devnull, request["out"], request["err"])):
        opened = os.open(
            name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644
        )
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(request["variables"])
    os.chdir(request["folder"])
    sys.argv = ["orca", *request["words"]]
    for name, value in request["limits"].items():
        hard = resource.getrlimit(getattr(resource, name))[1]
        resource.setrlimit(getattr(resource, name), (value, hard))


if __name__ == "__main__":
    _serve()
