"""The parts common to all bodies: weights and digests, embedding layer, source embedding."""

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

# Longer than any sequence, so that the model's own configuration sets the limit.
_UNBOUNDED = 2**31
# Statistics of ImageNet's pixels in 0..1: red, green, blue.
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
# Names of the linear layers in the families of the library transformers; c_attn and Wqkv are query,
# key and value in one layer.
_LINEARS: dict[Role, str] = {
    "query": r"\.(q|q_proj|query|query_proj|c_attn|Wqkv)",
    "key": r"\.(k|k_proj|key|key_proj|c_attn|Wqkv)",
    "value": r"\.(v|v_proj|value|value_proj|c_attn|Wqkv)",
    "output": r"\.(o|o_proj|out_proj|attn\.c_proj|attn\.Wo|attention\.output\.dense)",
    "feed_forward": r"\.(mlp\.\w+|fc1|fc2|w[io](_\d)?"
    r"|(\d+\.|feed_forward\.)(intermediate|output)(\.|_)dense)",
}


class Body(nn.Module, ABC):
    """A pretrained transformer between embedder and predictor (paper 3.1, g).

    It is a transformers model without its input layer. The embedding layer is kept separately: it
    embeds the source and is neither trained nor stored with checkpoints.

    A family defines `forward`, `embedder_init` and, where they differ from the defaults below,
    `submodules`, `linears` (role -> regular expression for the end of the names of its nn.Linear
    layers), `layer_list` (the name of the list of its layers, which take hidden states
    [B, P + T, D] as their first positional argument) and the attributes.

    Args:
        model: a transformers model, without pooler.
        folder: folder of the checkpoint.
        embeddings: the model's embedding layer.
        max_tokens: S, length of the longest sequence that it accepts, including prefix tokens.
        width: D, the width of its tokens; also F, the width of its features, unless the family sets
            `feature_width`.

    Attributes:
        embeddings: the model's own embedding layer.
        modality: modality of the examples that the embedding layer accepts.
        canvas: (height, width) that inputs are resized to before they are cut into tokens; None for
            sequences.
        source_resolution: resolution of source images, "input" or "body" as in
            `Embedder.resolution`.
        downsampling: factor per axis by which the grid of its features is coarser than the grid of
            its tokens; 1 for text.
        can_be_causal: whether it can prevent features from depending on later tokens.
        needs_prefix: True if its prefix tokens always come before the other tokens, False if they
            are added only when pooling needs them.
        takes_prefix: whether further tokens, such as a prompt, may come before the tokens of the
            grid. Further tokens do not count towards `max_tokens` if the embedder adds the
            positions (`EmbedderInit.positions`).
        checkpoint_digest: SHA-256 over the checkpoint's config.json and weights; identifies them in
            caches and records.
        preparation_digest: SHA-256 of the checkpoint's files that decide how data become inputs:
            tokenizer, pixel statistics.
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
        for name, module in self.submodules(model).items():
            self.add_module(name, module)
        # nn.Module's own setter would make the layer a submodule.
        # In evaluation mode, because the source's features must not depend on dropout.
        vars(self)["embeddings"] = embeddings.eval().requires_grad_(False)
        self._model_type = type(model)
        self.config = model.config
        self.folder = folder
        self.max_tokens = max_tokens
        self.width = width
        self.feature_width = width
        self.checkpoint_digest = checkpoints.digest(folder)
        self.preparation_digest = checkpoints.preparation_digest(folder)

    @staticmethod
    def submodules(model: Any) -> dict[str, nn.Module]:
        """Return the parts of a model that are trained and stored, by their names in the body.

        The default is the encoder.
        """
        return {"encoder": model.encoder}

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return next(self.parameters()).device

    @abstractmethod
    def forward(self, tokens: Tokens) -> Tokens:
        """Return features [B, P + T', F] with their mask and grid.

        T' is T / downsampling**2 for maps, else T.
        """

    @abstractmethod
    def embed_source(self, inputs: Sequence[str] | np.ndarray) -> Tokens:
        """Return the output of the body's own embedding layer for source examples.

        It is computed in evaluation mode, without gradient and without prefix.
        """

    @abstractmethod
    def embedder_init(self) -> EmbedderInit:
        """Return the weights that an embedder can start from, as copies."""

    def prefix_tokens(self) -> Tensor | None:
        """Return the embedded tokens [P, D] that come before all others, or None.

        The classification token is the first of them.
        """
        return None

    def norms(self) -> list[nn.Module]:
        """Return all normalisation layers, of any kind."""
        # By name, because families define their own norms, such as RMSNorm.
        return [module for module in self.modules() if type(module).__name__.endswith("Norm")]

    def linear_names(self, role: Role) -> list[str]:
        """Return the names of the linear layers with a role; empty if no layer has it."""
        if role not in self.linears:
            return []
        pattern = self.linears[role]
        # The pattern must match up to the end of the name: "query" must not match "query_proj".
        ending = re.compile(f"({pattern})$")
        layer_names = []
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and ending.search(name):
                layer_names.append(name)
        return layer_names

    def reset_weights(self) -> None:
        """Draw the weights of all submodules with the architecture's own initialisation.

        The embedding layer stays as it is.
        """
        options = checkpoints.without_pooler(self._model_type)
        # A copy of the configuration, because models modify their configuration.
        # No weights are loaded: the constructor draws them from torch's global generator, which the
        # caller has seeded.
        fresh_model = self._model_type(copy.deepcopy(self.config), **options)
        for name, module in self.submodules(fresh_model).items():
            # In place, so that the body's own modules and their hooks stay.
            self.get_submodule(name).load_state_dict(module.state_dict())

    def attention_mask(self, x: Tensor, mask: Tensor, *, causal: bool = False) -> Tensor | None:
        """Return the mask for transformers' attention over tokens [B, T, D]; None if not needed.

        `mask` [B, T] is False at padding.
        """
        from transformers.masking_utils import causal_mask_function, create_bidirectional_mask

        # transformers' masks of encoders are bidirectional; this condition makes them causal.
        and_mask = causal_mask_function if causal else None
        integer_mask = mask.to(torch.int64)
        return create_bidirectional_mask(self.config, x, integer_mask, and_mask_function=and_mask)


class TextBody(Body):
    """A body for sequences, with a tokenizer; a family also defines `encode`.

    Args:
        model, folder: as in `Body`.
        max_source_tokens: maximum number of tokens of a source text; longer texts are truncated.
        max_tokens: upper bound on the length of a sequence, which may not exceed the length in
            pretraining either.
    """

    modality = "text"

    def __init__(
        self, model: Any, folder: Path, max_source_tokens: int, max_tokens: int = _UNBOUNDED
    ) -> None:
        # BERT and similar families keep words, positions and norm in one layer; other families have
        # a layer for words only.
        embeddings = getattr(model, "embeddings", None) or model.get_input_embeddings()
        super().__init__(
            model,
            folder,
            embeddings,
            # A model has no positions beyond the length of its pretraining.
            max_tokens=min(max_tokens, _pretrained_length(model.config)),
            width=model.config.hidden_size,
        )
        self.max_source_tokens = max_source_tokens

    @abstractmethod
    def encode(self, x: Tensor, mask: Tensor, *, causal: bool) -> Tensor:
        """Return features [B, T, D] of tokens [B, T, D] whose mask [B, T] is False at padding."""

    def forward(self, tokens: Tokens) -> Tokens:
        """Return features, which are 0 after the batch's last real token.

        No token attends to padding or, if tokens are causal, to later tokens.
        """
        whole_length = tokens.mask.shape[1]
        length = whole_length
        # Padding at the end of all sequences is not computed. An exported graph cannot do this,
        # because the cut depends on the content of the batch.
        if not torch.compiler.is_exporting():
            is_real_anywhere = tokens.mask.any(0)  # [T], over the batch
            real_positions = is_real_anywhere.nonzero()
            if len(real_positions):
                length = int(real_positions.max()) + 1
        features = self.encode(tokens.x[:, :length], tokens.mask[:, :length], causal=tokens.causal)
        # Zeros after the last token keep the shape that the predictor expects.
        features = functional.pad(features, (0, 0, 0, whole_length - length))
        return Tokens(features, tokens.mask, tokens.grid, prefix=tokens.prefix)

    @torch.no_grad()
    def embed_source(self, inputs: Sequence[str] | np.ndarray) -> Tokens:
        """Return the embedding layer's outputs [B, T, D] for B texts, [CLS] and the like included.

        Texts are truncated to `max_source_tokens`.

        Raises:
            DataError: the checkpoint has no usable tokenizer.
        """
        encoded = self._tokenizer(
            list(inputs),
            padding=True,
            truncation=True,
            max_length=self.max_source_tokens,
            return_tensors="pt",
        ).to(self.device)
        # The layer is not a submodule, so `Body.to` does not move it.
        self.embeddings.to(self.device).eval()
        embedded = self.embeddings(encoded["input_ids"])
        return Tokens(embedded, encoded["attention_mask"].bool(), grid=(embedded.shape[1],))

    @torch.no_grad()
    def prefix_tokens(self) -> Tensor | None:
        """Return the embedded [CLS] or <s> [1, D] at the first position, or None.

        It is None if the tokenizer has no such token.
        """
        weights = next(self.embeddings.parameters())
        # On "meta" tensors have no values; they are loaded later, into a token of this shape.
        if weights.is_meta:
            return weights.new_empty(1, self.width)
        token_number = self._tokenizer.cls_token_id
        if token_number is None:
            return None
        sequences = torch.tensor([[token_number]], device=weights.device)  # [1, 1]
        return self.embeddings(sequences)[0]

    @torch.no_grad()
    def embedder_init(self) -> EmbedderInit:
        """Return a norm that gives tokens the mean and deviation of the word embeddings.

        Models that do not normalise their inputs need it: the scale of their embeddings differs by
        orders of magnitude between families.
        """
        # BERT and similar families keep word embeddings inside the embedding layer; a decoder's
        # embedding layer contains nothing else.
        word_layer = getattr(self.embeddings, "word_embeddings", self.embeddings)
        word_vectors = word_layer.weight
        norm = nn.LayerNorm(self.width, device=word_vectors.device)
        # Deviation and mean of each of the D numbers over the vocabulary.
        norm.weight.copy_(word_vectors.std(0))
        norm.bias.copy_(word_vectors.mean(0))
        return EmbedderInit(norm=norm)

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        try:
            # Local files only: a run has resolved the checkpoint and opens no connection here.
            tokenizer = AutoTokenizer.from_pretrained(
                self.folder, trust_remote_code=False, local_files_only=True
            )
            # Without these files transformers makes a tokenizer with an empty vocabulary.
            file_names = ("tokenizer.json", *tokenizer.vocab_files_names.values())
            if not any((self.folder / name).is_file() for name in file_names):
                raise FileNotFoundError("tokenizer.json")
        # transformers raises many types for a tokenizer that it cannot read.
        except Exception as error:
            raise DataError(
                "the checkpoint has no usable tokenizer",
                where=f"{checkpoints.KEY}={self.folder}",
                hint="save the checkpoint's tokenizer into this folder",
            ) from error
        # Padding is masked, so any token can serve if the tokenizer has no padding token.
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return tokenizer


def _pretrained_length(config: Any) -> int:
    """Return the length of the longest sequence that a model's configuration allows."""
    # The names under which families keep that number.
    for setting_name in ("max_position_embeddings", "n_positions"):
        length = getattr(config, setting_name, None)
        if length:
            return length
    # T5's positions have no bound; this is the length of its sequences in pretraining.
    return 512


class ImageBody(Body):
    """A body for maps, such as images.

    Attributes:
        patch: number of pixels per side of a patch of the embedding layer.
        patch_grid: (rows, columns) of the patches of its canvas.
        least_grid: smallest number of rows, and of columns, of patches that it accepts.
    """

    modality = "image"
    least_grid = 1
    canvas: tuple[int, int]

    def __init__(self, model: Any, folder: Path, *, max_tokens: int, width: int) -> None:
        super().__init__(model, folder, model.embeddings, max_tokens=max_tokens, width=width)
        image_size = model.config.image_size
        # A configuration may have one number for square images.
        is_square = isinstance(image_size, int)
        self.canvas = (image_size, image_size) if is_square else tuple(image_size)
        patch_filter = model.embeddings.patch_embeddings.projection
        # All families have square patches.
        self.patch: int = patch_filter.kernel_size[0]
        canvas_height, canvas_width = self.canvas
        self.patch_grid = (canvas_height // self.patch, canvas_width // self.patch)

    def canvas_for(
        self, input_shape: tuple[int, ...], max_tokens: int | None
    ) -> tuple[tuple[int, int], int]:
        """Return the canvas for an input at the input's own size, and its number of patches.

        It is the canvas with `resolution=input`.

        Args:
            input_shape: (C, L), (C, H, W) or (C, D, H, W).
            max_tokens: the embedder's upper bound on tokens; None applies the rule of `input_grid`.
        """
        rows, columns = input_grid(
            input_shape,
            patch=self.patch,
            largest_grid=self.patch_grid,
            smallest_side=self.least_grid,
            max_tokens=max_tokens,
        )
        return (rows * self.patch, columns * self.patch), rows * columns

    @torch.no_grad()
    def embed_source(self, inputs: Sequence[str] | np.ndarray) -> Tokens:
        """Return the patch embedding's outputs [B, T, D] for images [B, 3, H, W] in 0..1.

        The images are resized to the canvas.
        """
        images = torch.as_tensor(np.asarray(inputs), dtype=torch.float32, device=self.device)
        canvas = self.canvas
        # Source and target are compared at the same resolution.
        if self.source_resolution != "body":
            canvas, _ = self.canvas_for(tuple(images.shape[1:]), None)
        self.embeddings.to(self.device).eval()
        # An embedder starts from the same weights, so that source and target start in one space.
        weights = self.embedder_init()
        assert weights.patch_weight is not None
        pixel_mean = torch.tensor(weights.pixel_mean, device=self.device).view(3, 1, 1)
        pixel_deviation = torch.tensor(weights.pixel_std, device=self.device).view(3, 1, 1)
        # Computed step by step, because the layers of some families accept only one image size.
        pixels = (resize(images, canvas) - pixel_mean) / pixel_deviation
        maps = functional.conv2d(
            pixels, weights.patch_weight, weights.patch_bias, stride=self.patch
        )
        grid = (maps.shape[2], maps.shape[3])
        patches = maps.flatten(2).transpose(1, 2)  # [B, T, D]
        if weights.norm is not None:
            patches = weights.norm(patches)
        if weights.positions is not None:
            patch_count = math.prod(self.patch_grid)
            # Positions of prefix tokens come first.
            positions = weights.positions[-patch_count:]
            patches = patches + resize_positions(positions, self.patch_grid, grid)
        mask = torch.ones(patches.shape[:2], dtype=torch.bool, device=self.device)
        return Tokens(patches, mask, grid)

    def embedder_init(self) -> EmbedderInit:
        """Return patch filter, pixel statistics and, if the body has them, norm and positions."""
        pixel_mean, pixel_deviation = self._pixel_statistics()
        patch_filter = self.embeddings.patch_embeddings.projection
        positions = self.embeddings.position_embeddings  # [1, S, D]
        if positions is not None:
            positions = positions.detach()[0].clone()
        norm = getattr(self.embeddings, "norm", None)
        return EmbedderInit(
            norm=copy.deepcopy(norm),
            positions=positions,
            # The grid of the stored positions, from which an embedder interpolates its own.
            position_grid=self.patch_grid,
            patch_weight=patch_filter.weight.detach().clone(),
            patch_bias=patch_filter.bias.detach().clone(),
            pixel_mean=pixel_mean,
            pixel_std=pixel_deviation,
        )

    def _pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the mean and deviation that images were normalised with in pretraining.

        If the checkpoint does not record them, the values of ImageNet are returned.
        """
        settings_file = self.folder / "preprocessor_config.json"
        if not settings_file.exists():
            return _IMAGENET_MEAN, _IMAGENET_DEVIATION
        settings = checkpoints.read_config(self.folder, settings_file.name)
        pixel_mean = settings.get("image_mean")
        pixel_deviation = settings.get("image_std")
        if pixel_mean is None or pixel_deviation is None:
            return _IMAGENET_MEAN, _IMAGENET_DEVIATION
        are_means = fits(pixel_mean, tuple[float, float, float])
        are_deviations = fits(pixel_deviation, tuple[Positive, Positive, Positive])
        if not (are_means and are_deviations):
            raise DataError(
                "image_mean and image_std must each be three numbers; image_std must be positive",
                where=str(settings_file),
            )
        return tuple(pixel_mean), tuple(pixel_deviation)
