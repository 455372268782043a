"""A convolutional net: causal convolutions along the bars (Bai et al. 2018), then pooling over them."""

from torch import Tensor, nn

from pipeline.models.neural.checks import check_dropout, check_sizes, check_widths

POOLS = ("last", "max", "mean")


class Cnn(nn.Module):
    """Blocks of convolution, batch normalisation where asked for, ReLU and dropout; then pooling over time, and a head.

    Convolutions are causal: what stands at a bar follows from this bar and those before it; bars before the window
    count as zeros. One bar sees 1 + len(channels) * (kernel - 1) bars: with `pool` "last" the window's earlier ones do
    not matter. Batch normalisation answers by the running statistics of training.
    """

    def __init__(
        self,
        *,
        columns: int,
        bars: int,
        outputs: int,
        channels: list[int],
        kernel: int,
        pool: str,
        batch_norm: bool,
        dropout: float,
    ) -> None:
        """Weights come from torch's global generator. Raises ValueError where a tunable is not allowed."""
        super().__init__()
        check_sizes("cnn", columns=columns, bars=bars, outputs=outputs, kernel=kernel)
        check_widths("cnn", of="block", channels=channels)
        if pool not in POOLS:
            raise ValueError(f"cnn: pool is {pool!r}; allowed are {list(POOLS)}")
        check_dropout("cnn", dropout)
        self.pool = pool
        self.blocks = nn.Sequential(
            *(
                _block(before, after, kernel=kernel, batch_norm=batch_norm, dropout=dropout)
                for before, after in zip([columns, *channels], channels, strict=False)
            )
        )
        self.head = nn.Linear(channels[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, F) -> (B, outputs)."""
        seen: Tensor = self.blocks(x.transpose(1, 2))  # (B, channels, T)
        if self.pool == "last":
            pooled = seen[:, :, -1]
        elif self.pool == "max":
            pooled = seen.amax(dim=2)
        else:
            pooled = seen.mean(dim=2)
        answer: Tensor = self.head(pooled)  # pooled is (B, channels)
        return answer


class _CausalConvolution(nn.Conv1d):
    """(B, before, T) -> (B, after, T), each bar from itself and the `kernel - 1` before it.

    Padded on both sides and cut, since a padding of one side makes a worse ONNX graph.
    """

    def __init__(self, before: int, after: int, *, kernel: int, bias: bool) -> None:
        super().__init__(before, after, kernel, padding=kernel - 1, bias=bias)
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")  # He et al. 2015
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :, : x.shape[2]]


def _block(before: int, after: int, *, kernel: int, batch_norm: bool, dropout: float) -> nn.Sequential:
    """(B, before, T) -> (B, after, T)."""
    return nn.Sequential(
        _CausalConvolution(before, after, kernel=kernel, bias=not batch_norm),  # the normalisation has its own bias
        nn.BatchNorm1d(after) if batch_norm else nn.Identity(),
        nn.ReLU(),
        nn.Dropout(dropout),
    )
