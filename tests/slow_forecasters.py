"""N-HiTS and PatchTST in numpy, written from their papers, with the weights of a module: one window at a time."""

import numpy as np
from scipy.special import erf
from torch import nn

Array = np.ndarray


def read_weights(module: nn.Module) -> dict[str, Array]:
    return {name: each.detach().numpy().astype(float) for name, each in module.state_dict().items()}


def forward_patchtst(module: nn.Module, x: Array, *, patch_len: int, stride: int, nhead: int) -> Array:
    """Return the outputs (B, outputs) for windows (B, T, F): each column alone, then their mix (Nie et al. 2023)."""
    weights = read_weights(module)
    outputs = []
    for window in x.astype(float):
        columns = [forecast_column(weights, each, patch_len, stride, nhead) for each in window.T]
        outputs.append((np.stack(columns, axis=1) * weights["mixing"]).sum(axis=1) + weights["bias"])
    return np.stack(outputs)


def forecast_column(weights: dict[str, Array], series: Array, patch_len: int, stride: int, nhead: int) -> Array:
    """Return the forecasts (outputs,) of one column in its own unit."""
    level, scale = series.mean(), np.sqrt(series.var() + 1e-5)
    unit = np.append((series - level) / scale, np.full(stride, (series[-1] - level) / scale))
    starts = range(0, len(unit) - patch_len + 1, stride)
    kernel, offset = weights["embedding.weight"][:, 0], weights["embedding.bias"]
    states = np.stack([kernel @ unit[start : start + patch_len] + offset for start in starts]) + weights["positions"]
    for layer in range(sum(name.endswith("attention.query.weight") for name in weights)):
        name = f"layers.{layer}"
        states = norm(weights, f"{name}.attention_norm", states + attend(weights, f"{name}.attention", states, nhead))
        hidden = dense(weights, f"{name}.feedforward.0", states)
        hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2  # GELU
        states = norm(weights, f"{name}.feedforward_norm", states + dense(weights, f"{name}.feedforward.3", hidden))
    return np.asarray(dense(weights, "head", states.ravel()) * scale + level)


def attend(weights: dict[str, Array], name: str, states: Array, nhead: int) -> Array:
    """Return softmax(Q Kᵀ / √size) V of each head, side by side, projected (Vaswani et al. 2017, eq. 1)."""
    query, key, value = (dense(weights, f"{name}.{part}", states) for part in ("query", "key", "value"))
    size = states.shape[1] // nhead
    heads = []
    for own in (slice(head * size, (head + 1) * size) for head in range(nhead)):
        scores = np.exp(query[:, own] @ key[:, own].T / np.sqrt(size))
        heads.append(scores / scores.sum(axis=1, keepdims=True) @ value[:, own])
    return dense(weights, f"{name}.out_proj", np.concatenate(heads, axis=1))


def norm(weights: dict[str, Array], name: str, x: Array) -> Array:
    """Return batch normalization by the running statistics."""
    unit = (x - weights[f"{name}.running_mean"]) / np.sqrt(weights[f"{name}.running_var"] + 1e-5)
    return np.asarray(unit * weights[f"{name}.weight"] + weights[f"{name}.bias"])


def dense(weights: dict[str, Array], name: str, x: Array) -> Array:
    return np.asarray(x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0))


def forward_nhits(module: nn.Module, x: Array, *, kernels: list[int], outputs: int, horizon: int) -> Array:
    """Return the outputs (B, outputs) for windows (B, T, F): the means of the paths."""
    return forecast_path(module, x, kernels=kernels, outputs=outputs, horizon=horizon).mean(axis=2)


def forecast_path(module: nn.Module, x: Array, *, kernels: list[int], outputs: int, horizon: int) -> Array:
    """Return the paths (B, outputs, horizon) of N-HiTS for windows (B, T, F) (Challu et al. 2023).

    The perceptron of each block has two layers, each with a rectifier.
    """
    weights, found = read_weights(module), []
    for window in x.astype(float):
        residual, path = window.T, np.zeros((outputs, horizon))
        for number, kernel in enumerate(kernels):
            block = f"blocks.{number}"
            bars = range(0, residual.shape[1], kernel)
            hidden = np.stack([residual[:, bar : bar + kernel].max(axis=1) for bar in bars], axis=1).ravel()
            for layer in (0, 3):
                hidden = np.maximum(dense(weights, f"{block}.mlp.{layer}", hidden), 0)
            path += stretch(dense(weights, f"{block}.forecast.coefficients", hidden).reshape(outputs, -1), horizon)
            backcast = dense(weights, f"{block}.backcast.coefficients", hidden).reshape(len(residual), -1)
            residual = residual - stretch(backcast, residual.shape[1])
        found.append(path)
    return np.stack(found)


def stretch(knots: Array, length: int) -> Array:
    """Return (channels, length): lines between knots (channels, n), each in the middle of its part of the length."""
    count = knots.shape[1]
    places = (np.arange(count) + 0.5) * length / count - 0.5
    return np.stack([np.interp(np.arange(length), places, own) for own in knots])
