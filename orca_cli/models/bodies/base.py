"""What all bodies have in common: the weights' source and digest, the embedding layer kept aside, and source embedding."""

import copy
import functools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from orca_cli.config.ranges import Positive, fits
from orca_cli.exceptions import DataError
from orca_cli.interfaces import EmbedderInit, Modality, Role, Tokens
from orca_cli.models import checkpoints
from orca_cli.models.geometry import input_grid, resize, resize_positions

_UNBOUNDED = 2**31
# The names that families of transformers give their linear layers; c_attn and Wqkv are query, key and value in one.
_LINEARS: dict[Role, str] = {
    "query": r"\.(q|q_proj|query|query_proj|c_attn|Wqkv)",
    "key": r"\.(k|k_proj|key|key_proj|c_attn|Wqkv)",
    "value": r"\.(v|v_proj|value|value_proj|c_attn|Wqkv)",
    "output": r"\.(o|o_proj|out_proj|attn\.c_proj|attn\.Wo|attention\.output\.dense)",
    "feed_forward": r"\.(mlp\.\w+|fc1|fc2|w[io](_\d)?|(\d+\.|feed_forward\.)(intermediate|output)(\.|_)dense)",
}


class Body(nn.Module, ABC):
    """A pretrained transformer between embedder and predictor (paper 3.1, g): a transformers model without its input layer.

    The embedding layer is kept aside: it embeds the source and is neither trained nor stored with checkpoints.

    A family gives `forward`, `embedder_init` and, where they differ from the defaults below, `trained`, `linears` (role ->
    regular expression for the end of the names of its nn.Linear layers), `layer_list` (the name of the list of its layers,
    which take hidden states [B, P + T, D] as their first positional argument) and attributes.

    Args:
        model: a transformers model, without pooler.
        folder: where it was read from.
        embeddings: its embedding layer.
        max_tokens: S, the longest sequence that it takes, prefix tokens included.
        width: D, of the tokens that it takes; F, of its features, as well, unless the family sets `feature_width`.

    Attributes:
        embeddings, modality: its own embedding layer, and what this takes.
        canvas: (height, width) that inputs are brought to before they are cut into tokens; None for sequences.
        source_resolution: "input" or "body", as `Embedder.resolution`: at which it embeds source images.
        downsampling: how much coarser the grid of its features is than that of its tokens, per axis; 1 for text.
        can_be_causal: whether it can keep a feature from depending on later tokens.
        needs_prefix: True where its prefix tokens always stand before the others, False where only pooling asks for them.
        takes_prefix: whether other tokens than its own may stand before those of the grid. They do not count towards
            `max_tokens` where positions are the embedder's (`EmbedderInit.positions`).
        checkpoint_digest: SHA-256 of the weights as loaded; identifies them in caches and records.
        preparation_digest: SHA-256 of what the checkpoint says about how data become inputs: tokenizer, pixel statistics.
    """

    embeddings: Any
    modality: Modality
    canvas: tuple[int, int] | None = None
    source_resolution = "body"
    downsampling = 1
    can_be_causal = False
    needs_prefix = False
    takes_prefix = True
    linears: ClassVar[Mapping[Role, str]] = _LINEARS
    layer_list: ClassVar[str] = ""

    def __init__(
        self, model: Any, folder: Path, embeddings: nn.Module, *, max_tokens: int, width: int
    ) -> None:
        super().__init__()
        for name, module in self.trained(model).items():
            self.add_module(name, module)
        vars(self)["embeddings"] = embeddings.eval().requires_grad_(False)  # not a submodule
        self._model_type = type(model)
        self.config, self.folder = model.config, folder
        self.max_tokens, self.width, self.feature_width = max_tokens, width, width
        self.checkpoint_digest = checkpoints.digest(folder)
        self.preparation_digest = checkpoints.preparation_digest(folder)

    @staticmethod
    def trained(model: Any) -> dict[str, nn.Module]:
        """Return the parts of a model that are trained and stored, by their names here; by default the encoder."""
        return {"encoder": model.encoder}

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        return next(self.parameters()).device

    @abstractmethod
    def forward(self, tokens: Tokens) -> Tokens:
        """Return features [B, P + T', F] with their mask and grid; T' = T / downsampling**2 for maps."""

    @abstractmethod
    def embed_source(self, inputs: Sequence[str] | np.ndarray) -> Tokens:
        """Return its own embedding layer's output for source examples, in evaluation mode, without gradient or prefix."""

    @abstractmethod
    def embedder_init(self) -> EmbedderInit:
        """Return the weights that an embedder can start from, as copies."""

    def prefix_tokens(self) -> Tensor | None:
        """Return the embedded tokens [P, D] that stand before all others, classification token first, or None."""
        return None

    def norms(self) -> list[nn.Module]:
        """Return all normalisation layers, of any kind."""
        return [module for module in self.modules() if type(module).__name__.endswith("Norm")]

    def linear_names(self, role: Role) -> list[str]:
        """Return the names of the linear layers with a role; empty where the family has none."""
        if role not in self.linears:
            return []
        ending = re.compile(f"({self.linears[role]})$")
        return [
            name
            for name, part in self.named_modules()
            if isinstance(part, nn.Linear) and ending.search(name)
        ]

    def reset_weights(self) -> None:
        """Redraw what is trained by the architecture's own initialisation; the embedding layer stays."""
        fresh = self._model_type(
            copy.deepcopy(self.config), **checkpoints.without_pooler(self._model_type)
        )
        for name, module in self.trained(fresh).items():
            self.get_submodule(name).load_state_dict(module.state_dict())

    def attention_mask(self, x: Tensor, mask: Tensor, *, causal: bool = False) -> Tensor | None:
        """Return what transformers' attention takes for tokens [B, T, D] and their mask [B, T]; None where it needs no mask."""
        from transformers.masking_utils import causal_mask_function, create_bidirectional_mask

        and_mask = causal_mask_function if causal else None
        return create_bidirectional_mask(
            self.config, x, mask.to(torch.int64), and_mask_function=and_mask
        )


class TextBody(Body):
    """A body that takes sequences, with a tokenizer; a family also gives `encode`.

    Args:
        model, folder: as of `Body`.
        max_source_tokens: that source texts are cut to.
        max_tokens: longest sequence, where the model takes it.
    """

    modality = "text"

    def __init__(
        self, model: Any, folder: Path, max_source_tokens: int, max_tokens: int = _UNBOUNDED
    ) -> None:
        config = model.config
        # T5's positions have no bound: what counts is the length in pretraining.
        longest = (
            getattr(config, "max_position_embeddings", None)
            or getattr(config, "n_positions", None)
            or 512
        )
        words = getattr(model, "embeddings", None) or model.get_input_embeddings()
        super().__init__(
            model, folder, words, max_tokens=min(max_tokens, longest), width=config.hidden_size
        )
        self.max_source_tokens = max_source_tokens

    @abstractmethod
    def encode(self, x: Tensor, mask: Tensor, *, causal: bool) -> Tensor:
        """Return features [B, T, D] of tokens [B, T, D] whose mask [B, T] is False at padding."""

    def forward(self, tokens: Tokens) -> Tokens:
        """Return features; nothing attends to padding nor, where tokens are causal, to what comes later."""
        # What lies behind the batch's last real token is not computed; its features are 0. An exported graph has no such cut.
        length = tokens.mask.shape[1]
        if not torch.compiler.is_exporting():
            places = tokens.mask.any(0).nonzero()
            length = int(places.max()) + 1 if len(places) else length
        features = self.encode(tokens.x[:, :length], tokens.mask[:, :length], causal=tokens.causal)
        features = functional.pad(features, (0, 0, 0, tokens.mask.shape[1] - length))
        return Tokens(features, tokens.mask, tokens.grid, prefix=tokens.prefix)

    @torch.no_grad()
    def embed_source(self, inputs: Sequence[str] | np.ndarray) -> Tokens:
        """Return the embedding layer's outputs [B, T, D] for B texts, cut to `max_source_tokens`, [CLS] and the like included.

        DataError where the checkpoint has no usable tokenizer.
        """
        cut = {"padding": True, "truncation": True, "max_length": self.max_source_tokens}
        encoded = self._tokenizer(list(inputs), **cut, return_tensors="pt").to(self.device)
        self.embeddings.to(self.device).eval()
        x = self.embeddings(encoded["input_ids"])
        return Tokens(x, encoded["attention_mask"].bool(), (x.shape[1],))

    @torch.no_grad()
    def prefix_tokens(self) -> Tensor | None:
        """Return the embedded [CLS] or <s> [1, D] at the first position; None where the tokenizer has none."""
        weights = next(self.embeddings.parameters())
        if (
            weights.is_meta
        ):  # the values come later, from a model that has such a token; only the shape counts
            return weights.new_empty(1, self.width)
        number = self._tokenizer.cls_token_id
        return (
            None
            if number is None
            else self.embeddings(torch.tensor([[number]], device=weights.device))[0]
        )

    @torch.no_grad()
    def embedder_init(self) -> EmbedderInit:
        """Return a norm that gives tokens the words' mean and deviation, for models without a norm of their inputs.

        Such bodies compute in their own scale, which differs by orders of magnitude between families.
        """
        words = getattr(self.embeddings, "word_embeddings", self.embeddings).weight
        norm = nn.LayerNorm(self.width, device=words.device)
        norm.weight.copy_(words.std(0))
        norm.bias.copy_(words.mean(0))
        return EmbedderInit(norm=norm)

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(
                self.folder, trust_remote_code=False, local_files_only=True
            )
            # Without these files transformers makes a tokenizer that knows no word.
            names = ("tokenizer.json", *tokenizer.vocab_files_names.values())
            if not any((self.folder / name).is_file() for name in names):
                raise FileNotFoundError("tokenizer.json")
        except Exception as error:
            what, where = (
                "the checkpoint has no usable tokenizer",
                f"{checkpoints.KEY}={self.folder}",
            )
            raise DataError(
                what, where=where, hint="save the tokenizer into the same folder"
            ) from error
        tokenizer.pad_token = (
            tokenizer.pad_token or tokenizer.eos_token
        )  # any will do: padding is masked
        return tokenizer


class ImageBody(Body):
    """A body that takes maps.

    Attributes:
        patch: pixels per side of a patch of its own embedding layer.
        patch_grid: (rows, columns) of the patches of its canvas.
        least_grid: rows and columns of patches that it needs.
    """

    modality = "image"
    least_grid = 1
    canvas: tuple[int, int]

    def __init__(self, model: Any, folder: Path, *, max_tokens: int, width: int) -> None:
        super().__init__(model, folder, model.embeddings, max_tokens=max_tokens, width=width)
        size = model.config.image_size
        self.canvas = (size, size) if isinstance(size, int) else tuple(size)
        sides = model.embeddings.patch_embeddings.projection.kernel_size
        self.patch: int = sides[0]
        self.patch_grid = (self.canvas[0] // sides[0], self.canvas[1] // sides[1])

    def canvas_for(
        self, input_shape: tuple[int, ...], max_tokens: int | None
    ) -> tuple[tuple[int, int], int]:
        """Return the canvas that holds the patches which an input (C, *E) is worth at `resolution=input`, and their number.

        Args:
            input_shape: (C, L), (C, H, W) or (C, D, H, W).
            max_tokens: upper bound that is set; None for the body's own choice.
        """
        most, least = self.patch_grid, self.least_grid
        rows, columns = input_grid(
            input_shape, patch=self.patch, most=most, least=least, max_tokens=max_tokens
        )
        return (rows * self.patch, columns * self.patch), rows * columns

    @torch.no_grad()
    def embed_source(self, inputs: Sequence[str] | np.ndarray) -> Tokens:
        """Return the patch embedding's outputs [B, T, D] for images [B, 3, H, W] in 0..1, resized to the canvas."""
        images = torch.as_tensor(np.asarray(inputs), dtype=torch.float32, device=self.device)
        canvas = (
            self.canvas
            if self.source_resolution == "body"
            else self.canvas_for(tuple(images.shape[1:]), None)[0]
        )
        self.embeddings.to(self.device).eval()
        start = self.embedder_init()
        mean, std = (
            torch.tensor(one, device=self.device).view(3, 1, 1)
            for one in (start.pixel_mean, start.pixel_std)
        )
        pixels = (resize(images, canvas) - mean) / std
        maps = functional.conv2d(pixels, start.patch_weight, start.patch_bias, stride=self.patch)  # type: ignore[arg-type]
        x, grid = maps.flatten(2).transpose(1, 2), (maps.shape[2], maps.shape[3])
        x = x if start.norm is None else start.norm(x)
        if start.positions is not None:
            x = x + resize_positions(
                start.positions[-math.prod(self.patch_grid) :], self.patch_grid, grid
            )
        return Tokens(x, torch.ones(x.shape[:2], dtype=torch.bool, device=self.device), grid)

    def embedder_init(self) -> EmbedderInit:
        """Return patch filter, statistics of pixels and, where the model has them, norm and positions."""
        mean, std = self._pixel_statistics()
        patch, positions = (
            self.embeddings.patch_embeddings.projection,
            self.embeddings.position_embeddings,
        )
        return EmbedderInit(
            norm=copy.deepcopy(getattr(self.embeddings, "norm", None)),
            positions=None if positions is None else positions.detach()[0].clone(),
            position_grid=self.patch_grid,
            patch_weight=patch.weight.detach().clone(),
            patch_bias=patch.bias.detach().clone(),
            pixel_mean=mean,
            pixel_std=std,
        )

    def _pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and deviation that the checkpoint's images were normalised with; ImageNet's where it does not say."""
        file = self.folder / "preprocessor_config.json"
        settings = checkpoints.read_config(self.folder, file.name) if file.exists() else {}
        mean, deviation = settings.get("image_mean"), settings.get("image_std")
        if mean is None or deviation is None:
            return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        if not (
            fits(mean, tuple[float, float, float])
            and fits(deviation, tuple[Positive, Positive, Positive])
        ):
            what = "image_mean and image_std are not three numbers each, the latter positive"
            raise DataError(what, where=str(file))
        return tuple(mean), tuple(deviation)
