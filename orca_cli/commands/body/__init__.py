"""`orca body`: the pretrained bodies themselves; each verb is a module of its own."""

from __future__ import annotations

VERBS = {
    "list": "the bodies that have a name, and other checkpoints on this machine: family, size, where they are",
    "get": "fetch a body's checkpoint now, for machines without a network",
    "train": "train a small vision body on labelled images, without a model hub",
}
ABOUT = "The pretrained bodies: which ones are here, fetch one, make one."
EXAMPLES = """\
examples:
  orca body list                            what body=NAME can be used here
  orca body get swin_tiny                   fetch its checkpoint into the hub's cache
  orca body get microsoft/swin-tiny-patch4-window7-224@COMMIT
  orca body train my_swin                   on CIFAR-10 in paths.data/cifar10
  orca run body=swin_tiny body.checkpoint=my_swin task=darcy
  orca body train --help                    more about each"""
