"""A convolutional net: causal convolutions over the bars (Bai et al. 2018), then pooling over time."""

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn

from pipeline.models.torch_runtime.hyperparameters import Dropout, Sizes


class Cnn(nn.Module):
    """Blocks of convolution, optional batch normalization, ReLU and dropout; then pooling over time, and a linear head.

    Convolutions are causal: the output at a bar depends on this bar and those before it; bars before the window count
    as zeros. The receptive field is 1 + len(channels) * (kernel_size - 1) bars; with `pool` "last", bars of the window
    before it do not matter. In evaluation, batch normalization uses the running statistics of training.
    """

    def __init__(
        self,
        *,
        columns: PositiveInt,
        window: PositiveInt,
        outputs: PositiveInt,
        channels: Sizes,
        kernel_size: PositiveInt,
        pool: Literal["last", "max", "mean"],
        batch_norm: bool,
        dropout: Dropout,
    ) -> None:
        """Draw the weights from torch's global generator."""
        super().__init__()
        self.pool = pool
        self.blocks = nn.Sequential(
            *(
                _make_block(before, after, kernel_size=kernel_size, batch_norm=batch_norm, dropout=dropout)
                for before, after in zip([columns, *channels], channels, strict=False)
            )
        )
        self.head = nn.Linear(channels[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, F) -> (B, outputs)."""
        hidden: Tensor = self.blocks(x.transpose(1, 2))  # (B, channels, T)
        if self.pool == "last":
            pooled = hidden[:, :, -1]
        elif self.pool == "max":
            pooled = hidden.amax(dim=2)
        else:
            pooled = hidden.mean(dim=2)
        output: Tensor = self.head(pooled)  # pooled is (B, channels)
        return output


class _CausalConv1d(nn.Conv1d):
    """A convolution (B, before, T) -> (B, after, T) of each bar and the `kernel_size - 1` bars before it.

    It pads both sides and cuts the end off: padding one side only gives a worse ONNX graph.
    """

    def __init__(self, before: int, after: int, *, kernel_size: int, bias: bool) -> None:
        super().__init__(before, after, kernel_size, padding=kernel_size - 1, bias=bias)
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")  # He et al. 2015
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        # contiguous: normalizing a view takes MKL's square root, which differs between CPUs of different vendors
        return super().forward(x)[:, :, : x.shape[2]].contiguous()


def _make_block(before: int, after: int, *, kernel_size: int, batch_norm: bool, dropout: float) -> nn.Sequential:
    """Return a block (B, before, T) -> (B, after, T)."""
    return nn.Sequential(
        _CausalConv1d(before, after, kernel_size=kernel_size, bias=not batch_norm),  # the normalization has a bias
        nn.BatchNorm1d(after) if batch_norm else nn.Identity(),
        nn.ReLU(),
        nn.Dropout(dropout),
    )
