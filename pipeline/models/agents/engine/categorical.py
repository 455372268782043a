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
    before = _worse(probabilities)
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
    beyond, passed = _passed(probabilities, losses, tail)
    var = _deep_value_at_risk(passed, tail, level=level)
    deep = (var + tail.scale - tail.shape * tail.threshold) / (1 - tail.shape)
    within = probabilities * (1 - beyond)
    before = passed[:, None] + _worse(within)  # those beyond the threshold are the worst
    inside = torch.minimum(within, (rest - before).clamp(min=0))
    mean_beyond = tail.threshold + tail.scale / (1 - tail.shape)
    joined = (passed * mean_beyond + (inside * losses).sum(dim=1)) / (passed + inside.sum(dim=1))
    return torch.where(passed >= rest, deep, joined)


def value_at_risk(probabilities: Tensor, support: Tensor, tail: Tail | None, *, level: float) -> Tensor:
    """(B,) the loss, -return, that (B, K) distributions pass with probability 1 - level.

    Where a tail is known and its threshold is passed more often than that, the tail tells it; else the atoms do, the
    mass of each spread evenly between the midpoints to its neighbours.
    """
    rest = torch.full_like(probabilities[:, :1], 1 - level)
    worst_first = _worse(probabilities) + probabilities  # (B, K)
    at = torch.searchsorted(worst_first.contiguous(), rest).clamp(max=len(support) - 1)  # (B, 1)
    mass = probabilities.gather(1, at).clamp(min=SMALLEST)
    share = ((rest - worst_first.gather(1, at)) / mass + 1).clamp(0, 1)  # of the atom's mass that belongs to the tail
    gap = (support[-1] - support[0]) / (len(support) - 1)
    shallow = -(support[at] + gap * (share - 0.5))[:, 0]
    if tail is None:
        return shallow
    _, passed = _passed(probabilities, -support, tail)
    return torch.where(passed >= 1 - level, _deep_value_at_risk(passed, tail, level=level), shallow)


def _passed(probabilities: Tensor, losses: Tensor, tail: Tail) -> tuple[Tensor, Tensor]:
    """(K,) the share of each atom's mass beyond the threshold, and (B,) how probable it is that it is passed."""
    gap = losses[0] - losses[1]
    beyond = ((losses - tail.threshold) / gap + 0.5).clamp(0, 1)  # an atom's mass is spread evenly about it
    return beyond, (probabilities * beyond).sum(dim=1).clamp(min=SMALLEST)


def _worse(masses: Tensor) -> Tensor:
    """(B, K) the mass of all worse atoms than each: support increases. A product, since a GPU's running sum is in no
    order that stays.
    """
    earlier = torch.ones(masses.shape[1], masses.shape[1], dtype=masses.dtype, device=masses.device).triu(1)
    return masses @ earlier


def _deep_value_at_risk(passed: Tensor, tail: Tail, *, level: float) -> Tensor:
    """(B,) by the tail, of distributions that pass its threshold with (B,) probabilities; at most the threshold."""
    ratio = ((1 - level) / passed).clamp(max=1.0)
    if abs(tail.shape) < SMALLEST:
        return tail.threshold - tail.scale * ratio.log()
    return tail.threshold + tail.scale / tail.shape * (ratio**-tail.shape - 1)
