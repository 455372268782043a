"""A convolutional net: causal convolutions over the bars (Bai et al. 2018), then pooling over time."""

from torch import Tensor, nn

from pipeline.models.torch_runtime.checks import check_dropout, check_sizes, check_widths

POOLS = ("last", "max", "mean")


class Cnn(nn.Module):
    """Blocks of convolution, optional batch normalization, ReLU and dropout; then pooling over time, and a linear head.

    Convolutions are causal: the output at a bar depends on this bar and those before it; bars before the window count
    as zeros. The receptive field is 1 + len(channels) * (kernel_size - 1) bars; with `pool` "last", bars of the window
    before it do not matter. In evaluation, batch normalization uses the running statistics of training.
    """

    def __init__(
        self,
        *,
        columns: int,
        window: int,
        outputs: int,
        channels: list[int],
        kernel_size: int,
        pool: str,
        batch_norm: bool,
        dropout: float,
    ) -> None:
        """Draw the weights from torch's global generator. Raises ValueError naming a hyperparameter out of range."""
        super().__init__()
        check_sizes("cnn", columns=columns, window=window, outputs=outputs, kernel_size=kernel_size)
        check_widths("cnn", of="block", channels=channels)
        if pool not in POOLS:
            raise ValueError(f"cnn: pool is {pool!r}; allowed are {list(POOLS)}")
        check_dropout("cnn", dropout)
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
        return super().forward(x)[:, :, : x.shape[2]]


def _make_block(before: int, after: int, *, kernel_size: int, batch_norm: bool, dropout: float) -> nn.Sequential:
    """Return a block (B, before, T) -> (B, after, T)."""
    return nn.Sequential(
        _CausalConv1d(before, after, kernel_size=kernel_size, bias=not batch_norm),  # the normalization has a bias
        nn.BatchNorm1d(after) if batch_norm else nn.Identity(),
        nn.ReLU(),
        nn.Dropout(dropout),
    )
