"""Returns as distributions over fixed atoms: projected, and what their lower tail costs (Bellemare et al. 2017)."""

import torch
from torch import Tensor

from pipeline.tails import Tail

SMALLEST = 1e-8  # of a probability under a logarithm or a power


def atoms(lowest: float, highest: float, count: int) -> Tensor:
    """(count,) float32 evenly spaced returns.

    Raises ValueError where there are fewer than two, or no room between the ends.
    """
    if count < 2 or not lowest < highest:
        raise ValueError(f"{count} atoms from {lowest} to {highest}; give at least 2, from a lower to a higher return")
    return torch.linspace(lowest, highest, count)


def projected(probabilities: Tensor, shifted: Tensor, support: Tensor) -> Tensor:
    """(B, K) masses on `support` (K,) of (B, K) probabilities that lie at (B, K) `shifted` returns.

    A return between two atoms is shared between them so that its mean is kept; beyond the ends it falls on the end, and
    on an atom on that atom. The masses of each row sum to what its probabilities do.
    """
    gap = (support[-1] - support[0]) / (len(support) - 1)
    place = ((shifted.clamp(support[0], support[-1]) - support[0]) / gap).clamp(0, len(support) - 1)  # (B, K)
    below = place.floor()
    share = place - below  # of the mass, to the atom above
    lower = below.long()
    upper = (lower + 1).clamp(max=len(support) - 1)
    masses = torch.zeros_like(probabilities)
    masses.scatter_add_(1, lower, probabilities * (1 - share))
    masses.scatter_add_(1, upper, probabilities * share)
    return masses


def mean(probabilities: Tensor, support: Tensor) -> Tensor:
    """(B,) expected returns."""
    return (probabilities * support).sum(dim=1)


def shortfall(probabilities: Tensor, support: Tensor, *, level: float) -> Tensor:
    """(B,) expected shortfall at `level` of (B, K) distributions: the mean loss, -return, of the worst 1 - level.

    Acerbi & Tasche 2002: where an atom straddles the level, only the part of it that belongs to the tail counts. The
    gradient reaches every probability in the tail.
    """
    tail = 1 - level
    before = probabilities.cumsum(dim=1) - probabilities  # (B, K) mass of worse atoms; support increases
    inside = torch.minimum(probabilities, (tail - before).clamp(min=0))
    return -(inside * support).sum(dim=1) / inside.sum(dim=1).clamp(min=SMALLEST)


def extreme_shortfall(probabilities: Tensor, support: Tensor, tail: Tail, *, level: float) -> Tensor:
    """(B,) expected shortfall at `level` where losses beyond the tail's threshold are as its GPD says.

    The critic tells how probable it is that the threshold is passed, p; the tail, fitted to losses that came true, what
    comes then. With p >= 1 - level: VaR = u + (β/ξ)[((1 - level)/p)^-ξ - 1] and ES = (VaR + β - ξu)/(1 - ξ). With a
    smaller p the critic's own atoms between VaR and the threshold join: both agree at p = 1 - level. The gradient goes
    through p and through these atoms.
    """
    losses = -support  # (K,) decreasing
    rest = 1 - level
    is_beyond = (losses > tail.threshold).to(probabilities.dtype)
    passed = (probabilities * is_beyond).sum(dim=1).clamp(min=SMALLEST)  # (B,)
    ratio = (rest / passed).clamp(max=1.0)
    if abs(tail.shape) < SMALLEST:
        var = tail.threshold - tail.scale * ratio.log()
    else:
        var = tail.threshold + tail.scale / tail.shape * (ratio**-tail.shape - 1)
    deep = (var + tail.scale - tail.shape * tail.threshold) / (1 - tail.shape)
    within = probabilities * (1 - is_beyond)
    before = passed[:, None] + within.cumsum(dim=1) - within  # mass of worse atoms, those beyond the threshold first
    inside = torch.minimum(within, (rest - before).clamp(min=0))
    mean_beyond = tail.threshold + tail.scale / (1 - tail.shape)
    joined = (passed * mean_beyond + (inside * losses).sum(dim=1)) / (passed + inside.sum(dim=1))
    return torch.where(passed >= rest, deep, joined)
