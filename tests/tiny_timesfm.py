"""Tiny random weights of TimesFM 2.5 in its published format, and upstream's own forecasts of them."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from timesfm import ForecastConfig
from timesfm.timesfm_2p5 import timesfm_2p5_torch
from timesfm.timesfm_2p5.timesfm_2p5_base import TimesFM_2p5_200M_Definition

from pipeline import digests

PATCH, HORIZON = 8, 16  # bars: of a patch, and of the longest forecast


class TinyWeights(NamedTuple):
    folder: Path
    sha256: str
    module: torch.nn.Module

    def forecast(self, windows: list[np.ndarray], *, context: int, flips: bool = True) -> np.ndarray:
        """Upstream's mean and quantiles of the next bars, (n, HORIZON, 10)."""
        with torch.device("meta"):  # it begins with random weights of the published size
            upstream = timesfm_2p5_torch.TimesFM_2p5_200M_torch(torch_compile=False)
        upstream.model = self.module
        upstream.compile(
            ForecastConfig(
                max_context=context,
                max_horizon=HORIZON,
                force_flip_invariance=flips,
                infer_is_positive=False,
                use_continuous_quantile_head=True,
                fix_quantile_crossing=True,
            )
        )
        return upstream.forecast(HORIZON, [window.astype(np.float32) for window in windows])[1]


def write_tiny_weights(folder: Path) -> TinyWeights:
    module = _make_module()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            size = 0.03 if name.startswith("output_projection") else 0.3  # forecasts of the size of the moves
            weight.copy_(torch.randn(weight.shape, generator=generator) * size + (weight.dim() == 1))
    save_file(module.state_dict(), folder / "model.safetensors")
    return TinyWeights(folder, digests.hash_file(folder / "model.safetensors"), module)


def _make_module() -> torch.nn.Module:
    published = TimesFM_2p5_200M_Definition()
    blocks = {
        name: replace(getattr(published, name), input_dims=inputs, hidden_dims=18, output_dims=outputs)
        for name, inputs, outputs in (
            ("tokenizer", 2 * PATCH, 16),
            ("output_projection_point", 16, 10 * HORIZON),
            ("output_projection_quantiles", 16, 20 * HORIZON),
        )
    }
    transformer = replace(published.stacked_transformers.transformer, model_dims=16, hidden_dims=20, num_heads=2)
    stack = replace(published.stacked_transformers, num_layers=2, transformer=transformer)
    lengths = {"input_patch_len": PATCH, "output_patch_len": HORIZON, "output_quantile_len": 2 * HORIZON}
    definition = replace(published, **blocks, **lengths, stacked_transformers=stack)
    return type("Tiny", (timesfm_2p5_torch.TimesFM_2p5_200M_torch_module,), {"config": definition})().eval()
