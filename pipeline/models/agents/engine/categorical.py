"""Returns as categorical distributions over fixed atoms: projection, value at risk and expected shortfall.

Bellemare, Dabney & Munos 2017 for the projection; the risk measures combine atoms with a generalized Pareto tail.
"""

import torch
from torch import Tensor

from pipeline.tail_risk import GpdTail

EPSILON = 1e-8  # the least probability under a logarithm or a power


def make_support(v_min: float, v_max: float, n_atoms: int) -> Tensor:
    """Return (n_atoms,) float32 evenly spaced returns; raise ValueError for fewer than two atoms or v_min >= v_max."""
    if n_atoms < 2 or not v_min < v_max:
        raise ValueError(f"{n_atoms} atoms from {v_min} to {v_max}; give at least 2, from a lower to a higher return")
    return torch.linspace(v_min, v_max, n_atoms)


def project_onto_support(probabilities: Tensor, shifted: Tensor, support: Tensor) -> Tensor:
    """Return (B, K) masses on `support` (K,) of probabilities (B, K) at the returns `shifted` (B, K).

    A return between two atoms splits its mass so that the mean is conserved; beyond the ends it goes to the end atom.
    Mass is conserved also where a return falls on an atom.
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


def average_returns(probabilities: Tensor, support: Tensor) -> Tensor:
    """Return the expected returns (B,)."""
    return (probabilities * support).sum(dim=1)


def estimate_shortfall(probabilities: Tensor, support: Tensor, *, level: float) -> Tensor:
    """Return the expected shortfall (B,) of distributions (B, K): the mean loss, -return, of the worst 1 - level.

    Acerbi & Tasche 2002: of an atom that straddles the level only the part inside the tail counts. The gradient
    reaches every probability in the tail.
    """
    tail = 1 - level
    before = _sum_worse_atoms(probabilities)
    inside = torch.minimum(probabilities, (tail - before).clamp(min=0))
    return -(inside * support).sum(dim=1) / inside.sum(dim=1).clamp(min=EPSILON)


def estimate_evt_shortfall(probabilities: Tensor, support: Tensor, tail: GpdTail, *, level: float) -> Tensor:
    """Return the expected shortfall (B,) with losses above the tail's threshold distributed by its GPD.

    The critic gives p, the probability of a loss above the threshold; the tail, fitted to realized losses, gives the
    distribution above it. For p >= 1 - level: VaR = u + (β/ξ)[((1 - level)/p)^-ξ - 1], ES = (VaR + β - ξu)/(1 - ξ).
    For a smaller p the critic's own atoms between VaR and threshold are added; both cases agree at p = 1 - level. The
    gradient flows through p and through these atoms.
    """
    losses = -support  # (K,) decreasing
    rest = 1 - level
    beyond, exceedance = _estimate_exceedance(probabilities, losses, tail)
    var = _invert_tail(exceedance, tail, level=level)
    deep = (var + tail.scale - tail.shape * tail.threshold) / (1 - tail.shape)
    within = probabilities * (1 - beyond)
    before = exceedance[:, None] + _sum_worse_atoms(within)  # those above the threshold are the worst
    inside = torch.minimum(within, (rest - before).clamp(min=0))
    mean_beyond = tail.threshold + tail.scale / (1 - tail.shape)
    joined = (exceedance * mean_beyond + (inside * losses).sum(dim=1)) / (exceedance + inside.sum(dim=1))
    return torch.where(exceedance >= rest, deep, joined)


def estimate_var(probabilities: Tensor, support: Tensor, tail: GpdTail | None, *, level: float) -> Tensor:
    """Return the value at risk (B,) of distributions (B, K): the loss, -return, exceeded with probability 1 - level.

    With a tail whose threshold is exceeded more often than that, it is the tail's; otherwise the atoms', the mass of
    each spread evenly between the midpoints to its neighbors.
    """
    rest = torch.full_like(probabilities[:, :1], 1 - level)
    worst_first = _sum_worse_atoms(probabilities) + probabilities  # (B, K)
    at = torch.searchsorted(worst_first.contiguous(), rest).clamp(max=len(support) - 1)  # (B, 1)
    mass = probabilities.gather(1, at).clamp(min=EPSILON)
    share = ((rest - worst_first.gather(1, at)) / mass + 1).clamp(0, 1)  # of the atom's mass that belongs to the tail
    gap = (support[-1] - support[0]) / (len(support) - 1)
    shallow = -(support[at] + gap * (share - 0.5))[:, 0]
    if tail is None:
        return shallow
    _, exceedance = _estimate_exceedance(probabilities, -support, tail)
    return torch.where(exceedance >= 1 - level, _invert_tail(exceedance, tail, level=level), shallow)


def _estimate_exceedance(probabilities: Tensor, losses: Tensor, tail: GpdTail) -> tuple[Tensor, Tensor]:
    """Return (K,) the share of each atom's mass above the threshold, and (B,) the probability of exceeding it."""
    gap = losses[0] - losses[1]
    beyond = ((losses - tail.threshold) / gap + 0.5).clamp(0, 1)  # an atom's mass is spread evenly about it
    return beyond, (probabilities * beyond).sum(dim=1).clamp(min=EPSILON)


def _sum_worse_atoms(masses: Tensor) -> Tensor:
    """Return (B, K) the mass of all atoms below each; the support increases.

    A matrix product, since a GPU's cumulative sum has no fixed order of additions.
    """
    earlier = torch.ones(masses.shape[1], masses.shape[1], dtype=masses.dtype, device=masses.device).triu(1)
    return masses @ earlier


def _invert_tail(exceedance: Tensor, tail: GpdTail, *, level: float) -> Tensor:
    """Return (B,) the tail's value at risk given (B,) probabilities of exceeding its threshold; at least that."""
    ratio = ((1 - level) / exceedance).clamp(max=1.0)
    if abs(tail.shape) < EPSILON:
        return tail.threshold - tail.scale * ratio.log()
    return tail.threshold + tail.scale / tail.shape * (ratio**-tail.shape - 1)
