"""Cross-modal transfer of pretrained transformers (ORCA): build, align, finetune."""

__version__ = "0.1.0"
