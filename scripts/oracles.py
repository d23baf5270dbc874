"""Record the outcomes of many command lines before a change of the program, and compare them afterwards.

    python -m scripts.oracles keep FILE.json             run all cases and write their outcomes
    python -m scripts.oracles check FILE.json --quick    run the quick cases, and fail if an outcome differs

An outcome is the exit code, the SHA-256 of the weights, the errors (to 1e-12) and the parameters of a run, and the bytes of
its predictions or its report. Weights depend on processor and packages: keep and check on the same machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import queue
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests import benchmark_files
from tests.checkpoints import save_tiny
from tests.cli.test_tasks import BESIDE_CLEAN, IMAGES, SMALL
from tests.forked import Server

AT_ONCE = 2
TOLERANCE = 1e-12  # relative tolerance of errors
_LIMIT_S = 900.0
_BRIEF = [
    "source.size=160", "align.epochs=2", "align.source_points=150", "align.max_samples=8", "train.epochs=2",
    "train.warmup_epochs=0", "train.batch_size=8", "train.lr=1e-3", "baselines=none",
]  # fmt: skip
_DIGITS = ["task=digits", "task.train_size=60", "task.validation_size=40", "task.test_size=50"]
METRICS = (
    "euclidean", "minibatch_ot", "mmd", "moments", "none", "otdd", "otdd_by_class", "otdd_exact", "otdd_gaussian",
    "otdd_reference", "transrate",
)  # fmt: skip
MODES = ("bitfit", "frozen", "full", "head", "layernorm", "lora", "prompt", "scratch")
# Family of bodies -> a source of its modality.
BODIES = dict.fromkeys(
    ("auto", "bert", "deberta", "esm", "gpt2", "modernbert", "qwen3", "roberta", "smollm2", "t5"),
    "stdlib_docs",
) | dict.fromkeys(("beit", "deit", "dinov2", "siglip", "swin", "swin_tiny", "vit"), "digits")
# Name of a variant -> settings that change a run on `digits`.
VARIANTS = {
    "folds": "train.folds=3",
    "three members": "train.members=3",
    "refit": "train.refit=true",
    "last epoch": "train.select=last",
    "by loss": "train.select_by=loss",
    "sgd": "train.optimizer=sgd",
    "adam, clipped": "train.optimizer=adam train.clip=0.5",
    "accumulation": "train.batch_size=4 train.accumulation=3",
    "decay": "train.weight_decay=0.1 train.outer_rate=5",
    "embedder patch": "embedder=patch",
    "embedder overlap": "embedder=overlap",
    "embedder multiscale": "embedder=multiscale",
    "ridge": "predictor.init=ridge",
    "random body": "body.weights=random metric=none",
    "another seed": "seed=7",
    "bfloat16": "precision=bf16",
    "all baselines": "baselines=all",
    "source stdlib_docs": "source=stdlib_docs",
    "source peptides": "source=peptides",
    "quick budget": "budget=quick train.epochs=null",
    "a setting that does not exist": "train.epoch=3",
    "a value out of range": "train.lr=-1",
    "a metric that does not exist": "metric=otd",
}
# Kind of target -> shapes of a sample's inputs that are combined with it.
ARRAY_SHAPES = {
    "classes": ["30", "2x30", "3x8x8"],
    "values": ["30", "3x8x8"],
    "labels": ["2x30"],
    "dense": ["1x32", "1x8x8"],
}
QUICK = (
    "task jsb clean", "task ninapro clean", "task listops release", "digits metric=otdd", "digits metric=mmd",
    "digits finetune=lora", "digits folds", "digits three members", "own classes 2x30", "own dense 1x8x8", "table", "killed",
)  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A case.

    Args:
        words: words of the command line of the run.
        after: command lines that follow the run, in which RUN represents its folder.
        kill_at: number of steps of stage 3 after which the run is killed and its command rerun; 0: it is not killed.
    """

    words: list[str]
    after: tuple[tuple[str, ...], ...] = ()
    kill_at: int = 0


def cases(folder: Path) -> Iterator[tuple[str, Command]]:
    """Yield name and command of every case, and write the files that the cases read into `folder`."""
    bodies = {name: str(save_tiny(name, folder / "bodies" / name)) for name in BODIES}

    def body(name: str) -> list[str]:
        return [f"body={name}", f"body.checkpoint={bodies[name]}"]

    text, image = (
        ["body=minilm", f"body.checkpoint={bodies['bert']}"],
        [*body("swin_tiny"), "source=digits"],
    )
    for task, protocol in product(benchmark_files.TASKS, ("clean", "paper", "release")):
        if protocol == "clean":
            benchmark_files.make(task, folder / "data")
        more = [] if protocol == "clean" else ["metric=none", *BESIDE_CLEAN.get(task, [])]
        words = [
            f"task={task}",
            *(image if task in IMAGES else [*text, "source=stdlib_docs"]),
            *_BRIEF,
        ]
        words += [
            f"paths.data={folder / 'data'}",
            "align.pseudo_labels=3",
            "train.epochs=1",
            *SMALL.get(task, []),
        ]
        yield f"task {task} {protocol}", Command([*words, f"protocol={protocol}", *more])
    digits = [*_DIGITS, *text, *_BRIEF]
    for metric in METRICS:
        yield f"digits metric={metric}", Command([*digits, f"metric={metric}"])
    for mode, metric in product(MODES, ("otdd", "none")):
        more = ["source=digits"] if mode == "prompt" else []
        name = f"digits finetune={mode}" + ("" if metric == "otdd" else " none")
        yield name, Command([*digits, f"finetune={mode}", f"metric={metric}", *more])
    for name, changes in VARIANTS.items():
        yield f"digits {name}", Command([*digits, *changes.split()])
    for name, source in BODIES.items():
        yield (
            f"digits body={name}",
            Command([*_DIGITS, *body(name), *_BRIEF, "metric=moments", f"source={source}"]),
        )
    for kind, shape in ((kind, shape) for kind, shapes in ARRAY_SHAPES.items() for shape in shapes):
        path = _arrays(folder, kind, [int(size) for size in shape.split("x")])
        words = [
            "task=arrays",
            f"task.kind={kind}",
            f"task.train={path}",
            *(image if shape.count("x") > 1 else text),
        ]
        after = (
            ("predict", "RUN", str(path), "--out", "p.npz"),
            ("export", "RUN", "exported"),
            ("score", "RUN"),
        )
        after += (("predict", "exported", str(path), "--out", "q.npz"),)
        yield f"own {kind} {shape}", Command([*words, *_BRIEF], after)
        yield (
            f"own {kind} {shape} none, two members",
            Command([*words, *_BRIEF, "metric=none", "train.members=2"]),
        )
    table = _table(folder)
    words = ["task=table", f"task.train={table}", *text, *_BRIEF]
    for name, more in {
        "": ["task.target=kind"],
        " of numbers": ["task.target=weight", "task.ignore=[kind]"],
        " of labels": ["task.targets=[a,b]", "task.ignore=[kind]"],
        " of sequences": ["task.sequence=letters", "task.target=kind"],
        " of long rows": ["task.id=who", "task.target=kind", "task.ignore=[letters]"],
    }.items():
        yield (
            f"table{name}",
            Command([*words, *more], (("predict", "RUN", str(table), "--out", "p.csv"),)),
        )
    yield "images", Command(["task=images", f"task.path={_images(folder)}", *image, *_BRIEF])
    for name, more in {"killed": [], "killed in the second member": ["train.members=2"]}.items():
        words = [*digits, "train.epochs=12", "train.checkpoint_s=0", *more]
        yield name, Command(words, kill_at=40)
    recorded = str(Path(__file__).parent.parent / "tests" / "recorded" / "arrays")
    forms = ["", *(f"--format {form}" for form in ("csv", "md", "latex"))]
    for more_words in (*forms, "--against metric=none", "--compare", "--json"):
        yield f"report {more_words}".strip(), Command(["report", recorded, *more_words.split()])


def _arrays(folder: Path, kind: str, shape: list[int]) -> Path:
    rng, n = np.random.default_rng([len(kind), *shape]), 80
    x, level = rng.normal(size=(n, *shape)), rng.integers(0, 3, n)
    x += level.reshape(n, *[1] * len(shape))
    y = {
        "classes": level,
        "values": level + rng.normal(size=n),
        "labels": np.stack([level > 0, level > 1], 1).astype(int),
        "dense": x[:, 0] ** 2,
    }[kind]
    path = folder / f"{kind}-{'x'.join(map(str, shape))}.npz"
    np.savez(path, x=x.astype(np.float32), y=y)
    return path


def _table(folder: Path) -> Path:
    rng, rows = np.random.default_rng(0), ["who,kind,weight,a,b,colour,size,letters"]
    for row in range(160):
        kind, who = row // 2 % 3, row // 2
        letters = "".join(rng.choice(list("ACGT"), 20 + kind))
        cells = (
            who,
            "uvw"[kind],
            f"{kind + rng.normal():.3f}",
            kind // 2,
            kind % 2,
            "red" if kind else "blue",
        )
        rows.append(",".join(map(str, (*cells, f"{rng.normal():.3f}", letters))))
    path = folder / "table.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def _images(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(60):
        place = folder / "pictures" / "uvw"[number % 3] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 80 * (1 + number % 3), (12, 12, 3), np.uint8)).save(place)
    return folder / "pictures"


def ended(server: Server, folder: Path, name: str, case: Command) -> dict[str, Any]:
    """Run a case in a separate folder below `folder`, and return its record."""
    place = folder / re.sub(r"\W+", "-", name)
    place.mkdir()
    variables = {
        "ORCA_RUNS": str(place / "runs"),
        "ORCA_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
    }
    words = case.words if case.words[0] == "report" else ["run", *case.words]
    codes: list[int] = []
    if case.kill_at:
        process = server.start(words, more=variables, folder=place)
        while _steps(place) < case.kill_at and process.poll() is None:
            time.sleep(0.05)
        process.kill()
    for command in (words, *case.after):
        run = str(next(place.glob("runs/*/*/status.json"), Path("none/none")).parent)
        process = server.start(
            [run if word == "RUN" else word for word in command], more=variables, folder=place
        )
        codes.append(process.wait(_LIMIT_S))
    record: dict[str, Any] = {"codes": codes}
    if codes[-1]:
        record["said"] = process.err.strip().rpartition("\n")[2][-300:].replace(str(place), "")
    if words[0] == "report":
        record["printed"] = hashlib.sha256(process.out.encode()).hexdigest()
    for path in place.glob("runs/*/*/result.json"):
        result = json.loads(path.read_text())
        record |= {
            key: result[key] for key in ("weights_sha256", "parameters", "splits", "metric_value")
        }
        record["errors"] = [
            result["error"]["value"],
            result["validation_error"],
            result["trivial_error"],
        ]
    for path in sorted(place.glob("[pq].npz")):
        with np.load(path) as file:
            record[path.name] = {
                key: hashlib.sha256(file[key].tobytes()).hexdigest() for key in sorted(file.files)
            }
    if (path := place / "p.csv").exists():
        record["p.csv"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return record


def _steps(folder: Path) -> int:
    path = next(folder.glob("runs/*/*/3_finetune/metrics.jsonl"), None)
    return (
        0
        if path is None
        else max(map(int, re.findall(r'"step": ?(\d+)', path.read_text())), default=0)
    )


def run_all(waiting: list[tuple[str, Command]], folder: Path) -> dict[str, dict[str, Any]]:
    """Run cases, several at a time, and return their records by name."""
    records, begun = {}, time.monotonic()
    servers: queue.SimpleQueue[Server] = queue.SimpleQueue()

    def work(case: tuple[str, Command]) -> None:
        server = servers.get()
        try:
            record = records[case[0]] = ended(server, folder, *case)
        finally:
            servers.put(server)
        print(f"{case[0]}: {record['codes']} {record.get('said', '')}", file=sys.stderr)

    with ExitStack() as stack, ThreadPoolExecutor(AT_ONCE) as pool:
        for number in range(AT_ONCE):
            (folder / f"server-{number}").mkdir()
            servers.put(stack.enter_context(Server(folder / f"server-{number}")))
        list(pool.map(work, waiting))
    print(f"{len(records)} cases in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return records


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the differences between two records of a case, in words."""
    lines = []
    for key in sorted({*before, *after}):
        one, other = before.get(key), after.get(key)
        if key == "errors" and one and other:
            same = np.allclose(
                np.array(one, float), np.array(other, float), rtol=TOLERANCE, atol=0, equal_nan=True
            )
        else:
            same = one == other
        if not same:
            lines.append(f"{key}: {one} before, {other} after")
    return lines


def main() -> int:
    """Keep or check the outcomes, as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("keep", "check"))
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--quick", action="store_true", help=f"run only the {len(QUICK)} quick cases"
    )
    parser.add_argument("--only", help="run only cases whose names contain this text")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="oracles-") as name:
        chosen = [
            (title, case) for title, case in cases(Path(name))
            if (not arguments.quick or title in QUICK) and (arguments.only or "") in title
        ]  # fmt: skip
        records = run_all(chosen, Path(name))
    if arguments.what == "keep":
        arguments.file.write_text(json.dumps(records, indent=1, sort_keys=True))
        return 0
    before = json.loads(arguments.file.read_text())
    wrong = {
        name: lines
        for name, record in records.items()
        if (lines := differences(before.get(name, {}), record))
    }
    for title, lines in wrong.items():
        print(f"{title}: {'; '.join(lines)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
