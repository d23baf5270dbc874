"""`orca body train`: a small vision body from labelled images."""

from __future__ import annotations

import argparse
from pathlib import Path

from orca_cli import configuration, terminal
from orca_cli.exceptions import UsageError
from orca_cli.terminal import Result

EXAMPLES = """\
examples:
  orca body train my_swin                                  on CIFAR-10: `orca data get cifar10` fetches it
  orca body train my_swin --data images.npz                x_train (n, 3, H, W) of bytes, y_train; x_test, y_test if there are
  orca body train my_swin --data photos --size 64          a folder of image files for each class
  orca body train my_swin --epochs 3 --limit 2000          a quick trial
  orca run body=swin_tiny body.checkpoint=my_swin task=darcy

A Swin of 0.93 M parameters. Held-out images, the test split or else a tenth, tell how good it is; they are not trained on.
If it is interrupted, repeat the command to resume. The folder gets its name only when the checkpoint in it is complete."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = (
        "Train a Swin transformer of about 1 M parameters on labelled images, as a body for maps and images."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="gets the checkpoint; must not exist")
    text = "an .npz, or a folder of images; default: CIFAR-10 in paths.data"
    parser.add_argument("--data", type=Path, metavar="PATH", help=text)
    parser.add_argument("--epochs", type=int, default=30, metavar="N", help="passes over the images; default: 30")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="images per step; default: 128")
    parser.add_argument(
        "--lr", type=float, default=1e-3, metavar="RATE", help="the largest learning rate; default: 0.001"
    )
    parser.add_argument(
        "--size", type=int, default=32, metavar="S", help="pixels per side, a multiple of 32; default: 32"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="most training images; default: all")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of weights, order and augmentation; default: 0"
    )
    parser.add_argument("--no-flip", action="store_true", help="no mirror images: for letters, digits, maps")
    parser.add_argument(
        "--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps; default: auto"
    )


def execute(arguments: argparse.Namespace) -> Result:
    """Train, and return what came out."""
    _check(arguments)
    from orca_cli.pretraining import images, swin

    terminal.configure_logging()
    reporter = terminal.LogReporter()
    data = configuration.default_folders()["data"]
    path = None if arguments.data is None else arguments.data.expanduser()
    found = images.load(path, data, arguments.size, arguments.limit, arguments.seed, reporter)
    settings = swin.Pretraining(
        arguments.epochs, arguments.batch_size, arguments.lr, not arguments.no_flip, arguments.seed
    )
    folder = arguments.folder.expanduser().absolute()
    was_there = swin.finished(folder, swin.identity_of(found, settings)) is not None
    reporter.say(
        f"{len(found.train.y)} training and {len(found.held_out.y)} held-out images, {len(found.class_names)} classes"
    )
    record = swin.train(folder, found, settings, arguments.device, reporter)
    accuracy = f"{100 * record['held_out_accuracy']:.1f} % of {record['held_out']} held-out images"
    rows = [
        ("folder", f"{folder}{' (was there, complete)' if was_there else ''}"),
        ("parameters", f"{record['parameters']:,}"),
        ("accuracy", f"{accuracy} (chance: {100 / record['classes']:.1f} %)"),
        ("loss", f"{record['loss'][0]:.3f} in the first epoch, {record['loss'][-1]:.3f} in the last"),
        ("use", f"orca run body=swin_tiny body.checkpoint={arguments.folder}"),
    ]
    return Result({"schema": 1, "folder": str(folder), **record}, [terminal.facts(rows)])


def _check(arguments: argparse.Namespace) -> None:
    """Refuse numbers that are out of range."""
    for name in ("epochs", "batch_size", "limit", "size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UsageError(f"{value} is out of range", where=f"--{name.replace('_', '-')}", hint="allowed: 1 or more")
    if arguments.size % 32 or arguments.size > 512:
        raise UsageError(f"{arguments.size} is not a multiple of 32 up to 512", where="--size", hint="such as 32 or 64")
    if not 0 < arguments.lr < float("inf"):
        raise UsageError(f"{arguments.lr} is out of range", where="--lr", hint="allowed: above 0")
    if not 0 <= arguments.seed < 2**31:
        raise UsageError(f"{arguments.seed} is out of range", where="--seed", hint="allowed: 0 to 2147483647")
