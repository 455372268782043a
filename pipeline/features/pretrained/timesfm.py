"""TimesFM 2.5 (Das et al. 2024): forecasts by published weights, in one pass over the patches of a window."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.features.pretrained.weights import find_weights

try:
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from timesfm.timesfm_2p5.timesfm_2p5_base import TimesFM_2p5_200M_Definition
    from timesfm.timesfm_2p5.timesfm_2p5_torch import TimesFM_2p5_200M_torch_module
    from timesfm.torch import util
except ModuleNotFoundError as error:
    package = str(error.name).partition(".")[0]
    raise ModuleNotFoundError(
        f"forecasts of TimesFM need the package {package}; run `pip install -c .ci/constraints.txt -e '.[timesfm]'`",
        name=package,
    ) from error

FILE = "model.safetensors"
SOURCE = (
    "google/timesfm-2.5-200m-pytorch of Hugging Face (Apache-2.0, 925 MB; such as `hf download "
    "google/timesfm-2.5-200m-pytorch model.safetensors --local-dir FOLDER`)"
)
CONTEXT_LIMIT = TimesFM_2p5_200M_Definition.context_limit  # bars
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of the quantiles; the mean stands before them
OUTPUTS = 1 + len(LEVELS)
MEDIAN = OUTPUTS // 2  # the place of the median, which upstream calls the point forecast
LOWEST, HIGHEST = 1, OUTPUTS - 1  # the places of the outer quantiles


class Forecaster(nn.Module):
    """Upstream's layers with given weights, as one graph: windows in, mean and quantiles of the next bars out.

    A forecast is that of upstream's `forecast` with the continuous quantile head and without quantile crossing, for
    horizons that one pass decodes. A window is normalized inside the graph: shifted and scaled windows have shifted and
    scaled forecasts. With `force_flip_invariance` mirrored ones have mirrored forecasts, for twice the time.
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, force_flip_invariance: bool) -> None:
        """Take upstream's tensors by name. Raises ValueError where they are not those of TimesFM 2.5."""
        super().__init__()
        self.force_flip_invariance = force_flip_invariance
        self.layers = _make_layers(tensors)
        self.patch_len, self.max_horizon = self.layers.p, self.layers.o

    def forward(self, values: Tensor, masked: Tensor) -> Tensor:
        """Map windows (B, T) and what is masked of them (B, T) -> (B, max_horizon, OUTPUTS).

        T is a multiple of `patch_len`. Only the first values of a window may be masked, and never the last one.
        """
        path, quantiles = self._decode(values, masked)
        if self.force_flip_invariance:
            flipped = [_mirror_quantiles(each) for each in self._decode(-values, masked)]
            path, quantiles = (path - flipped[0]) / 2, (quantiles - flipped[1]) / 2
        quantiles = quantiles - quantiles[:, :, MEDIAN : MEDIAN + 1] + path[:, :, MEDIAN : MEDIAN + 1]
        return torch.stack([path[:, :, 0], *_uncross(quantiles, path[:, :, MEDIAN])], dim=2)

    def check(self, *, window: int, horizon: int) -> None:
        """Raise ValueError where the weights cannot forecast `horizon` bars of a window in one pass."""
        if window % self.patch_len:
            raise ValueError(f"a window of {window} bars is no multiple of TimesFM's patches of {self.patch_len} bars")
        if horizon > self.max_horizon:
            raise ValueError(f"a horizon of {horizon} bars is above {self.max_horizon}, what TimesFM forecasts at once")

    def _decode(self, values: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """Return the path and the quantiles of the last patch, both (B, max_horizon, OUTPUTS)."""
        shape = (
            -1,
            int(values.shape[1]) // self.patch_len,
            self.patch_len,
        )  # (B, P, p); B is free
        patches, masks = values.reshape(shape), masked.reshape(shape)
        mu, sigma = _normalize_patches(patches, masks)  # (B, P) each
        normed = torch.where(masks, torch.zeros_like(patches), util.revin(patches, mu, sigma))
        (_, embeddings, _, _), _ = self.layers(normed, masks)
        last = embeddings[:, -1]  # upstream projects every patch, and reads the last
        projections = (self.layers.output_projection_point, self.layers.output_projection_quantiles)
        first, second = (
            torch.unflatten(each(last) * sigma[:, -1:] + mu[:, -1:], 1, (-1, OUTPUTS)) for each in projections
        )
        return first, second[:, : self.max_horizon]


@lru_cache(maxsize=1)
def _load_cached(file: Path, sha256: str, force_flip_invariance: bool, changed_ns: int) -> Forecaster:
    """Return the forecaster of a file; one is in memory at a time, since it may have hundreds of megabytes."""
    try:
        tensors = load_file(find_weights(str(file.parent), file.name, sha256=sha256, source=SOURCE))
    except SafetensorError as error:
        raise ValueError(f"{file} is no file of safetensors ({error}); download it again") from error
    try:
        return Forecaster(tensors, force_flip_invariance=force_flip_invariance).eval()
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def load_forecaster(folder: str, *, sha256: str | None, force_flip_invariance: bool) -> Forecaster:
    """Return the forecaster of the weights in a folder.

    Raises:
        ValueError: the weights are absent, are not the pinned ones, or not those of TimesFM 2.5.
    """
    file = Path(folder) / FILE
    changed_ns = file.stat().st_mtime_ns if file.is_file() else 0
    return _load_cached(file, sha256 or "", force_flip_invariance, changed_ns)


def _make_layers(tensors: Mapping[str, Tensor]) -> Any:
    """Return upstream's module of the sizes that the tensors have, with these tensors as its weights."""
    sized = type("SizedTimesFM", (TimesFM_2p5_200M_torch_module,), {"config": _read_definition(tensors)})
    with torch.device("meta"):  # no weights are drawn
        layers = sized()
    try:
        layers.load_state_dict({name: each.float() for name, each in tensors.items()}, strict=True, assign=True)
    except RuntimeError as error:
        raise _make_error(str(error).splitlines()[-1].strip()) from error
    for layer in layers.stacked_xf:
        layer.attn.attention_fn = _attend
    return layers.requires_grad_(False)


def _read_definition(tensors: Mapping[str, Tensor]) -> TimesFM_2p5_200M_Definition:
    """Return upstream's definition with the sizes of the tensors; the rest is as published."""

    def count(name: str, *, axis: int = 0) -> int:
        if name not in tensors:
            raise _make_error(f"there is no tensor {name}")
        return int(tensors[name].shape[axis])

    published = TimesFM_2p5_200M_Definition()
    blocks = {
        name: replace(
            getattr(published, name),
            input_dims=count(f"{name}.hidden_layer.weight", axis=1),
            hidden_dims=count(f"{name}.hidden_layer.weight"),
            output_dims=count(f"{name}.output_layer.weight"),
        )
        for name in ("tokenizer", "output_projection_point", "output_projection_quantiles")
    }
    model_dims = blocks["tokenizer"].output_dims
    transformer = replace(
        published.stacked_transformers.transformer,
        model_dims=model_dims,
        hidden_dims=count("stacked_xf.0.ff0.weight"),
        num_heads=model_dims // count("stacked_xf.0.attn.per_dim_scale.per_dim_scale"),
    )
    return replace(
        published,
        **blocks,
        input_patch_len=blocks["tokenizer"].input_dims // 2,  # values, and which of them are masked
        output_patch_len=blocks["output_projection_point"].output_dims // OUTPUTS,
        output_quantile_len=blocks["output_projection_quantiles"].output_dims // OUTPUTS,
        stacked_transformers=replace(
            published.stacked_transformers,
            num_layers=len({name.split(".")[1] for name in tensors if name.startswith("stacked_xf.")}),
            transformer=transformer,
        ),
    )


def _make_error(fault: str) -> ValueError:
    return ValueError(f"these are not the weights of TimesFM 2.5 ({fault}); supported is {FILE} of {SOURCE}")


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Return upstream's attention of (B, P, heads, size), without a scale, in operations that ONNX has.

    A patch that sees none, as it is masked itself, weighs all evenly: a softmax of infinities would be NaN.
    """
    query, key, value = (each.transpose(1, 2) for each in (query, key, value))  # (B, heads, P, size)
    weights = torch.where(mask, query @ key.transpose(2, 3), -torch.finfo(query.dtype).max / 2).softmax(dim=-1)
    return (weights @ value).transpose(1, 2)


def _normalize_patches(patches: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each window up to the end of each of its patches, (B, P) each."""
    n = mu = sigma = torch.zeros_like(patches[:, 0, 0])  # (B,)
    found = []
    for patch in range(patches.shape[1]):
        (n, mu, sigma), _ = util.update_running_stats(n, mu, sigma, patches[:, patch], masks[:, patch])
        found.append((mu, sigma))
    means, deviations = zip(*found, strict=True)
    return torch.stack(means, dim=1), torch.stack(deviations, dim=1)


def _mirror_quantiles(forecast: Tensor) -> Tensor:
    """Return (B, H, OUTPUTS) with the quantiles, but not the mean before them, in reverse order."""
    return torch.cat([forecast[:, :, :1], forecast[:, :, 1:].flip(2)], dim=2)


def _uncross(quantiles: Tensor, median: Tensor) -> list[Tensor]:
    """Return each quantile, (B, H), moved to its neighbor nearer to the median where it lies beyond it."""
    below, above = [median], [median]
    for place in range(MEDIAN - 1, LOWEST - 1, -1):
        below.append(torch.minimum(quantiles[:, :, place], below[-1]))
    for place in range(MEDIAN + 1, HIGHEST + 1):
        above.append(torch.maximum(quantiles[:, :, place], above[-1]))
    return [*below[:0:-1], *above]
