"""Gradient norms of a fit by layer: their size, and where they vanish, explode or are NaN."""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.models.nets.engine.callback_base import Callback, FitState, Report, State

VANISHING_LAYER_NORM = 1e-7  # a layer's gradient below this hardly changes its weights
EXPLODING_LAYER_NORM = 1e3  # above this a step destroys what the layer has learned
MAX_LISTED = 20  # the first places of a fault that are listed; all are counted
COUNTS = ("entries", "zero", "nan", "inf")  # of gradients: all entries, and those that are zero or not finite
FAULTS = ("vanishing", "exploding", "undefined")  # of the norm of a layer in a batch
ROOT = "(net)"  # the layer of the parameters that the net itself owns


@dataclass
class _LayerRecord:
    """The measurements of the gradients of one layer."""

    num_norms: int = 0  # the finite ones
    total: float = 0.0  # of the finite norms
    lowest: float = math.inf
    highest: float = -math.inf
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*COUNTS, *FAULTS), 0))

    def add(self, norm: float, counts: Mapping[str, int]) -> None:
        """Add a batch: the norm of the layer, and its COUNTS."""
        for kind, count in counts.items():
            self.counts[kind] += count
        fault = _classify_norm(norm)
        if fault is not None:
            self.counts[fault] += 1
        if math.isfinite(norm):
            self.num_norms, self.total = self.num_norms + 1, self.total + norm
            self.lowest, self.highest = min(self.lowest, norm), max(self.highest, norm)

    def report(self) -> Report:
        """Return mean, lowest and highest of the finite norms, None where there are none, and all counts."""
        if not self.num_norms:
            return {"mean": None, "min": None, "max": None, **self.counts}
        return {"mean": self.total / self.num_norms, "min": self.lowest, "max": self.highest, **self.counts}


class GradientMonitor(Callback):
    """Measures gradients in the first and then every `interval`-th batch of an epoch, before clipping.

    A layer is the module that owns the parameters, such as "recurrent.lstm". Its norm is vanishing below
    VANISHING_LAYER_NORM, exploding above EXPLODING_LAYER_NORM (infinity included), and undefined where an entry is NaN.
    A parameter without a gradient is skipped. The entry of the epoch gets "grad_norm", the mean of the norms over
    all parameters, and "grad_norm_max"; both are NaN where one of these norms was not finite.
    """

    report_key: ClassVar[str] = "gradients"

    def __init__(self, *, interval: int) -> None:
        """`interval` is in batches, 1 or more."""
        self._interval = interval
        self._batches = 0  # measured
        self._epoch_norms: list[float] = []  # over all parameters
        self._layers: dict[str, _LayerRecord] = {}
        self._places: dict[str, list[Report]] = {fault: [] for fault in FAULTS}

    def on_epoch_start(self, state: FitState) -> None:
        """Forget the norms of the epoch before."""
        self._epoch_norms = []

    def on_after_backward(self, state: FitState) -> None:
        """Measure the gradients of this batch, if the interval says so."""
        if (state.batch - 1) % self._interval:
            return
        measured = _measure_layers(state.net)
        for layer, (norm, counts) in measured.items():
            if layer not in self._layers:
                self._layers[layer] = _LayerRecord()
            self._layers[layer].add(norm, counts)
            self._list_fault(layer, norm, state=state)
        self._batches += 1
        self._epoch_norms.append(_combine_norms([norm for norm, _ in measured.values()]))

    def _list_fault(self, layer: str, norm: float, *, state: FitState) -> None:
        fault = _classify_norm(norm)
        if fault is not None and len(self._places[fault]) < MAX_LISTED:
            place = {"layer": layer, "epoch": state.epoch, "batch": state.batch}
            self._places[fault].append(place | {"norm": norm if math.isfinite(norm) else None})

    def on_validation_end(self, state: FitState) -> None:
        """Add the norms of the epoch to the entry."""
        if self._epoch_norms:
            is_finite = all(map(math.isfinite, self._epoch_norms))
            mean = math.fsum(self._epoch_norms) / len(self._epoch_norms) if is_finite else math.nan
            state.entry["grad_norm"] = mean
            state.entry["grad_norm_max"] = max(self._epoch_norms) if is_finite else math.nan

    def state_dict(self) -> State:
        """Return all measurements, of the fit and of the current epoch."""
        return {
            "batches": self._batches,
            "epoch_norms": list(self._epoch_norms),
            "layers": {name: asdict(layer) for name, layer in self._layers.items()},
            "places": {fault: list(places) for fault, places in self._places.items()},
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        own = deepcopy(state)
        self._batches, self._epoch_norms, self._places = own["batches"], own["epoch_norms"], own["places"]
        self._layers = {name: _LayerRecord(**record) for name, record in own["layers"].items()}

    def report(self) -> Report:
        """Return the number of measured batches, each layer's norms and counts, and layers and places of each fault."""
        faults = {
            fault: {
                "layers": [name for name, layer in self._layers.items() if layer.counts[fault]],
                "count": sum(layer.counts[fault] for layer in self._layers.values()),
                "first": list(self._places[fault]),
            }
            for fault in FAULTS
        }
        return {"batches": self._batches, "layers": {n: layer.report() for n, layer in self._layers.items()}, **faults}


def _classify_norm(norm: float) -> str | None:
    """Return the one of FAULTS that the norm of a layer has, None where it has none."""
    if math.isnan(norm):
        return "undefined"
    if norm < VANISHING_LAYER_NORM:
        return "vanishing"
    return "exploding" if norm > EXPLODING_LAYER_NORM else None


def _measure_layers(net: nn.Module) -> dict[str, tuple[float, dict[str, int]]]:
    """Return the norm and the COUNTS of each layer that has gradients."""
    gradients: dict[str, list[Tensor]] = {}
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            gradients.setdefault(name.rpartition(".")[0] or ROOT, []).append(parameter.grad)
    every = list(chain.from_iterable(gradients.values()))
    if not every:
        return {}
    norms = iter(torch.stack(torch._foreach_norm(every)).tolist())  # one transfer from the device for all
    nonzero = iter(torch.stack([gradient.count_nonzero() for gradient in every]).tolist())
    measured = {}
    for layer, own in gradients.items():
        norm = _combine_norms(list(islice(norms, len(own))))
        measured[layer] = (norm, _count_entries(own, norm=norm, num_nonzero=sum(islice(nonzero, len(own)))))
    return measured


def _count_entries(gradients: Sequence[Tensor], *, norm: float, num_nonzero: int) -> dict[str, int]:
    """Return the COUNTS of a layer; those of NaN and infinity only where its norm is not finite."""
    entries = sum(gradient.numel() for gradient in gradients)
    counts = {"entries": entries, "zero": entries - num_nonzero}
    if not math.isfinite(norm):
        counts["nan"] = sum(int(gradient.isnan().sum()) for gradient in gradients)
        counts["inf"] = sum(int(gradient.isinf().sum()) for gradient in gradients)
    return counts


def _combine_norms(norms: Sequence[float]) -> float:
    """Return the norm of a whole from the norms of its parts; NaN where one is, which hypot hides behind infinity."""
    return math.nan if any(map(math.isnan, norms)) else math.hypot(*norms)
