"""`orca body`: the pretrained bodies themselves; each verb is a module of its own."""

from __future__ import annotations

VERBS = {
    "list": "the bodies that have a name, and other checkpoints on this machine: family, size, where they are",
    "get": "fetch a body's checkpoint now, for machines without a network",
}
ABOUT = "The pretrained bodies: which ones are here, fetch one."
EXAMPLES = """\
examples:
  orca body list                            what body=NAME can be used here
  orca body get swin_tiny                   fetch its checkpoint into the hub's cache
  orca body get microsoft/swin-tiny-patch4-window7-224@COMMIT
  orca body get --help                      more about each"""
