"""The gradients of a fit, layer by layer: their norms, and where they vanish, explode or are no numbers."""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from itertools import chain, islice

import torch
from torch import Tensor, nn

from pipeline.models.nets.engine.callback import Callback, Notes, Progress
from pipeline.models.nets.engine.diagnosis import EXPLODING_NORM, VANISHING_NORM
from pipeline.models.neural.checks import check_sizes

NAMED_FAULTS = 20  # as many of a kind are named, the first ones; all are counted
ENTRIES = ("entries", "zero", "nan", "inf")  # of gradients: all, and those that are counted
FAULTS = ("vanishing", "exploding", "undefined")  # of the norm of a layer in a batch
ROOT = "(net)"  # the layer of parameters that the net itself owns


@dataclass
class _Layer:
    """What was seen of the gradients of one layer."""

    norms: int = 0  # the finite ones
    total: float = 0.0  # of the finite norms
    lowest: float = math.inf
    highest: float = -math.inf
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*ENTRIES, *FAULTS), 0))

    def add(self, norm: float, counts: Mapping[str, int]) -> None:
        """One more batch: the norm of the layer, and how many of ENTRIES."""
        for kind, count in counts.items():
            self.counts[kind] += count
        fault = _fault(norm)
        if fault is not None:
            self.counts[fault] += 1
        if math.isfinite(norm):
            self.norms, self.total = self.norms + 1, self.total + norm
            self.lowest, self.highest = min(self.lowest, norm), max(self.highest, norm)

    def report(self) -> Notes:
        """Mean, lowest and highest of the finite norms, None where there were none, and all counts."""
        if not self.norms:
            return {"mean": None, "min": None, "max": None, **self.counts}
        return {"mean": self.total / self.norms, "min": self.lowest, "max": self.highest, **self.counts}


class GradientMonitor(Callback):
    """Gradients are measured in the first and then each `every`-th batch of an epoch, before clipping.

    A layer is the module that owns the parameters, such as "recurrent.lstm". Its norm is vanishing below
    VANISHING_NORM, exploding above EXPLODING_NORM (infinite included), and undefined where an entry is NaN. A parameter
    without a gradient is passed over. The entry of the epoch gets "gradient_norm", the mean of the norms over all
    parameters, and "gradient_norm_max"; both are nan where one of these norms was not finite.
    """

    def __init__(self, *, every: int) -> None:
        """`every` is in batches, 1 or more."""
        check_sizes("GradientMonitor", every=every)
        self._every = every
        self._batches = 0  # measured
        self._norms: list[float] = []  # of this epoch, over all parameters
        self._layers: dict[str, _Layer] = {}
        self._named: dict[str, list[Notes]] = {fault: [] for fault in FAULTS}

    def epoch_start(self, progress: Progress) -> None:
        """No norm of this epoch yet."""
        self._norms = []

    def gradients(self, progress: Progress) -> None:
        """One more batch is measured, where it is its turn."""
        if (progress.batch - 1) % self._every:
            return
        measured = _measured(progress.net)
        for name, (norm, counts) in measured.items():
            if name not in self._layers:
                self._layers[name] = _Layer()
            self._layers[name].add(norm, counts)
            fault = _fault(norm)
            if fault is not None and len(self._named[fault]) < NAMED_FAULTS:
                place = {"layer": name, "epoch": progress.epoch, "batch": progress.batch}
                self._named[fault].append(place | {"norm": norm if math.isfinite(norm) else None})
        self._batches += 1
        self._norms.append(_norm([norm for norm, _ in measured.values()]))

    def validation_end(self, progress: Progress) -> None:
        """The entry has the norms of the epoch."""
        if self._norms:
            is_finite = all(map(math.isfinite, self._norms))
            progress.entry["gradient_norm"] = math.fsum(self._norms) / len(self._norms) if is_finite else math.nan
            progress.entry["gradient_norm_max"] = max(self._norms) if is_finite else math.nan

    def state(self) -> Notes:
        """All that was seen, of the fit and of the epoch under way."""
        return {
            "batches": self._batches,
            "norms": list(self._norms),
            "layers": {name: asdict(layer) for name, layer in self._layers.items()},
            "named": {fault: list(named) for fault, named in self._named.items()},
        }

    def restore(self, state: Notes) -> None:
        """As `state` says."""
        own = deepcopy(state)
        self._batches, self._norms, self._named = own["batches"], own["norms"], own["named"]
        self._layers = {name: _Layer(**seen) for name, seen in own["layers"].items()}

    def report(self) -> Notes:
        """How many batches were measured; each layer's norms and counts; for each fault its layers and first places."""
        faults = {
            fault: {
                "layers": [name for name, layer in self._layers.items() if layer.counts[fault]],
                "count": sum(layer.counts[fault] for layer in self._layers.values()),
                "first": list(self._named[fault]),
            }
            for fault in FAULTS
        }
        return {"batches": self._batches, "layers": {n: layer.report() for n, layer in self._layers.items()}, **faults}


def _fault(norm: float) -> str | None:
    """The one of FAULTS that the norm of a layer has, if any."""
    if math.isnan(norm):
        return "undefined"
    if norm < VANISHING_NORM:
        return "vanishing"
    return "exploding" if norm > EXPLODING_NORM else None


def _measured(net: nn.Module) -> dict[str, tuple[float, dict[str, int]]]:
    """For each layer that has gradients, their norm and how many there are of each of ENTRIES."""
    gradients: dict[str, list[Tensor]] = {}
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            gradients.setdefault(name.rpartition(".")[0] or ROOT, []).append(parameter.grad)
    together = list(chain.from_iterable(gradients.values()))
    if not together:
        return {}
    norms = iter(torch.stack(torch._foreach_norm(together)).tolist())
    filled = iter(torch.stack([gradient.count_nonzero() for gradient in together]).tolist())
    measured = {}
    for layer, own in gradients.items():
        norm = _norm(list(islice(norms, len(own))))
        entries = sum(gradient.numel() for gradient in own)
        counts = {"entries": entries, "zero": entries - sum(islice(filled, len(own)))}
        if not math.isfinite(norm):
            counts["nan"] = sum(int(gradient.isnan().sum()) for gradient in own)
            counts["inf"] = sum(int(gradient.isinf().sum()) for gradient in own)
        measured[layer] = (norm, counts)
    return measured


def _norm(norms: Sequence[float]) -> float:
    """Of all by the norms of parts; nan where a part is, which hypot lets infinity hide."""
    return math.nan if any(map(math.isnan, norms)) else math.hypot(*norms)
