"""Oracles: how a table of command lines ends, kept before the house is changed and compared afterwards.

    python -m scripts.oracles keep FILE.json             run all cases and write how each ended
    python -m scripts.oracles check FILE.json --quick    run the quick ones, and fail where one ends otherwise

A case is judged by its exit code, the SHA-256 of its weights, its errors (to 1e-12) and parameters; where it predicts
or reports, by the bytes of that. Weights depend on processor and packages: keep and check on one machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scripts import make_fixtures
from tests.checkpoints import save_tiny
from tests.cli.test_tasks import BESIDE_CLEAN, IMAGES, SMALL
from tests.forked import Case, Server

AT_ONCE = 2
TOLERANCE = 1e-12  # of errors, relative
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
MODES = ("bitfit", "frozen", "full", "head", "ia3", "layernorm", "lora", "prompt", "scratch")
BODIES = (
    "auto", "ast", "beit", "bert", "deberta", "deit", "dinov2", "esm", "gpt2", "modernbert", "qwen3", "roberta", "siglip",
    "smollm2", "swin", "swin_tiny", "t5", "vit", "wav2vec2",
)  # fmt: skip
# What changes how a run goes on `digits`.
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
    "mixup": "augment=mixup",
    "jitter": "augment=jitter",
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
    "quick budget": "budget=quick train.epochs=1",
    "a setting that does not exist": "train.epoch=3",
    "a value out of range": "train.lr=-1",
    "a metric that does not exist": "metric=otd",
}
# Kind of target -> shapes of the inputs of one sample that it goes with.
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
        words: of the run.
        after: command lines that follow it, in which RUN stands for its folder.
        kill_at: steps of stage 3 after which it is killed, and typed again.
    """

    words: list[str]
    after: tuple[tuple[str, ...], ...] = ()
    kill_at: int = 0


def cases(folder: Path) -> Iterator[tuple[str, Command]]:
    """Yield name and command of every case; writes the files that they read into `folder`."""
    bodies = {name: str(save_tiny(name, folder / "bodies" / name)) for name in BODIES}

    def body(name: str) -> list[str]:
        return [f"body={name}", f"body.checkpoint={bodies[name]}"]

    text, image = ["body=minilm", f"body.checkpoint={bodies['bert']}"], [*body("swin_tiny"), "source=digits"]
    for task, protocol in product(make_fixtures.TASKS, ("clean", "paper", "release")):
        if protocol == "clean":
            make_fixtures.make(task, folder / "data")
        more = [] if protocol == "clean" else ["metric=none", *BESIDE_CLEAN.get(task, [])]
        words = [f"task={task}", *(image if task in IMAGES else [*text, "source=stdlib_docs"]), *_BRIEF]
        words += [f"paths.data={folder / 'data'}", "align.pseudo_labels=3", "train.epochs=1", *SMALL.get(task, [])]
        yield f"task {task} {protocol}", Command([*words, f"protocol={protocol}", *more])
    digits = [*_DIGITS, *text, *_BRIEF]
    for metric in METRICS:
        yield f"digits metric={metric}", Command([*digits, f"metric={metric}"])
    for mode, metric in product(MODES, ("otdd", "none")):
        more = ["source=digits"] if mode == "prompt" else []
        name = f"digits finetune={mode}" + ("" if metric == "otdd" else " none")
        yield name, Command([*digits, f"finetune={mode}", f"metric={metric}", *more])
    yield "digits finetune=visual_prompt", Command([*_DIGITS, *body("vit"), *_BRIEF, "finetune=visual_prompt"])
    for name, changes in VARIANTS.items():
        yield f"digits {name}", Command([*digits, *changes.split()])
    for name in bodies:
        yield f"digits body={name}", Command([*_DIGITS, *body(name), *_BRIEF, "metric=moments", "source=digits"])
    for kind, shape in ((kind, shape) for kind, shapes in ARRAY_SHAPES.items() for shape in shapes):
        path = _arrays(folder, kind, [int(size) for size in shape.split("x")])
        words = ["task=arrays", f"task.kind={kind}", f"task.train={path}", *(image if shape.count("x") > 1 else text)]
        after = (("predict", "RUN", str(path), "--out", "p.npz"), ("export", "RUN", "exported"), ("score", "RUN"))
        after += (("predict", "exported", str(path), "--out", "q.npz"),)
        yield f"own {kind} {shape}", Command([*words, *_BRIEF], after)
        yield f"own {kind} {shape} none, two members", Command([*words, *_BRIEF, "metric=none", "train.members=2"])
    table = _table(folder)
    words = ["task=table", f"task.train={table}", *text, *_BRIEF]
    for name, more in {
        "": ["task.target=kind"],
        " of numbers": ["task.target=weight", "task.ignore=[kind]"],
        " of labels": ["task.targets=[a,b]", "task.ignore=[kind]"],
        " of sequences": ["task.sequence=letters", "task.target=kind"],
        " of long rows": ["task.id=who", "task.target=kind", "task.ignore=[letters]"],
    }.items():
        yield f"table{name}", Command([*words, *more], (("predict", "RUN", str(table), "--out", "p.csv"),))
    yield "images", Command(["task=images", f"task.path={_images(folder)}", *image, *_BRIEF])
    for name, more in {"killed": [], "killed in the second member": ["train.members=2"]}.items():
        words = [*digits, "train.epochs=12", "train.checkpoint_s=0", *more]
        yield name, Command(words, kill_at=40)
    recorded = str(Path(__file__).parent.parent / "tests" / "recorded" / "arrays")
    for words_ in (
        "",
        "--format csv",
        "--format markdown",
        "--format latex",
        "--against metric=none",
        "--compare",
        "--json",
    ):
        yield f"report {words_}".strip(), Command(["report", "--runs", recorded, *words_.split()])


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
        cells = (who, "uvw"[kind], f"{kind + rng.normal():.3f}", kind // 2, kind % 2, "red" if kind else "blue")
        rows.append(",".join(map(str, (*cells, f"{rng.normal():.3f}", letters))))
    path = folder / "table.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def _images(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(60):
        place = folder / "images" / "uvw"[number % 3] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 80 * (1 + number % 3), (12, 12, 3), np.uint8)).save(place)
    return folder / "images"


class Runner:
    """Runs a case step by step, so that several can be run at a time."""

    def __init__(self, server: Server, folder: Path, home: Path, name: str, case: Command) -> None:
        self.name, self._server, self._case = name, server, case
        self._folder = folder / re.sub(r"\W+", "-", name)
        self._folder.mkdir()
        self._more = {"ORCA_RUNS": str(self._folder / "runs"), "ORCA_HOME": str(home), "OMP_NUM_THREADS": "1"}
        self._waiting, self._is_killed = [tuple(self._words()), *case.after], not case.kill_at
        self.record: dict[str, Any] = {"codes": []}
        self._begin()

    def _words(self) -> list[str]:
        return self._case.words if self._case.words[0] == "report" else ["run", *self._case.words]

    def _begin(self) -> None:
        run = str(next(self._folder.glob("runs/*/*/status.json"), Path("none/none")).parent)
        words = [run if word == "RUN" else word for word in self._waiting.pop(0)]
        os.chdir(self._folder)
        self._process: Case = self._server.start(words, more=self._more)
        self._since = time.monotonic()

    def is_done(self) -> bool:
        """Poll the case and start its next command; returns whether none is left."""
        if not self._is_killed and self._steps() >= self._case.kill_at:
            self._is_killed = True
            self._process.send(signal.SIGKILL)
            self._process.wait()
            self._waiting.insert(0, tuple(self._words()))
        elif self._process.poll() is None:
            if time.monotonic() - self._since > _LIMIT_S:
                self._process.kill()
            return False
        else:
            self.record["codes"].append(self._process.poll())
        if self._waiting:
            self._begin()
            return False
        self._keep()
        return True

    def _steps(self) -> int:
        path = next(self._folder.glob("runs/*/*/3_finetune/metrics.jsonl"), None)
        return 0 if path is None else max(map(int, re.findall(r'"step": ?(\d+)', path.read_text())), default=0)

    def _keep(self) -> None:
        if self.record["codes"][-1]:
            self.record["said"] = self._process.err.strip().rpartition("\n")[2][-300:].replace(str(self._folder), "")
        if self._case.words[0] == "report":
            self.record["printed"] = hashlib.sha256(self._process.out.encode()).hexdigest()
        for path in self._folder.glob("runs/*/*/result.json"):
            result = json.loads(path.read_text())
            self.record |= {key: result[key] for key in ("weights_sha256", "parameters", "splits", "metric_value")}
            self.record["errors"] = [result["error"]["value"], result["validation_error"], result["trivial_error"]]
        for name in ("p.npz", "q.npz"):
            if (path := self._folder / name).exists():
                with np.load(path) as file:
                    self.record[name] = {
                        key: hashlib.sha256(file[key].tobytes()).hexdigest() for key in sorted(file.files)
                    }
        if (path := self._folder / "p.csv").exists():
            self.record["p.csv"] = hashlib.sha256(path.read_bytes()).hexdigest()


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return what differs between two records of a case, in words."""
    lines = []
    for key in sorted({*before, *after}):
        one, other = before.get(key), after.get(key)
        if key == "errors" and one and other:
            same = np.allclose(np.array(one, float), np.array(other, float), rtol=TOLERANCE, atol=0, equal_nan=True)
        else:
            same = one == other
        if not same:
            lines.append(f"{key}: {one} before, {other} after")
    return lines


def main() -> int:
    """Keep or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("keep", "check"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--quick", action="store_true", help=f"{len(QUICK)} cases")
    parser.add_argument("--only", help="cases whose names hold this")
    arguments = parser.parse_args()
    path, begun, records = arguments.file.absolute(), time.monotonic(), {}
    with tempfile.TemporaryDirectory(prefix="oracles-") as name, Server(Path(name)) as server:
        folder = Path(name)
        waiting = [
            one for one in cases(folder)
            if (not arguments.quick or one[0] in QUICK) and (arguments.only or "") in one[0]
        ]  # fmt: skip
        running: list[Runner] = []
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                running.append(Runner(server, folder, folder / "home", *waiting.pop(0)))
            for one in list(running):
                if one.is_done():
                    running.remove(one)
                    records[one.name] = one.record
                    print(f"{one.name}: {one.record['codes']} {one.record.get('said', '')}", file=sys.stderr)
            time.sleep(0.05)
        os.chdir("/")
    print(f"{len(records)} cases in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    if arguments.what == "keep":
        path.write_text(json.dumps(records, indent=1, sort_keys=True))
        return 0
    before = json.loads(path.read_text())
    wrong = {
        name: changes for name, record in records.items() if (changes := differences(before.get(name, {}), record))
    }
    for case, changes in wrong.items():
        print(f"{case}: {'; '.join(changes)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
