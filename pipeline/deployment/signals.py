"""The signal of a bundle when a bar has closed."""

from typing import Any, NamedTuple

MADE = ("numbers", "places")  # fields of a signal of which `models` is made


class ModelSignal(NamedTuple):
    """The part of one model in a signal."""

    prediction: tuple[float, ...]
    score: float  # NaN where its predictions have none
    target: float  # position in [-1, 1]
    position: float  # weight that its own account holds at this close
    is_full: bool  # whether its window has bars of this segment alone, none repeated


class Signal(NamedTuple):
    """The signal of a bundle when a bar has closed."""

    open_time: int  # of the bar, ms
    symbol: str
    model: str  # whose target it is: the ensemble, or a model
    target: float  # position in [-1, 1] to be held from the next fill on
    position: float  # weight held at this close, by the bundle's own account
    trades: bool  # whether the target is further than the no-trade band from the position
    missing_bars: int  # before the bar
    numbers: tuple[list[float], list[float], list[float], list[float]]  # predictions, scores, targets, positions of all
    places: list[tuple[str, int, int, bool]]  # of each model: its name, where its prediction begins and ends, is_full

    @property
    def models(self) -> dict[str, ModelSignal]:
        """The part of each model, by its name; computed at each access."""
        predictions, scores, targets, positions = self.numbers
        return {
            name: ModelSignal(tuple(predictions[start:stop]), scores[m], targets[m], positions[m], is_full)
            for m, (name, start, stop, is_full) in enumerate(self.places)
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the signal as a mapping for JSON; what is undefined is None."""
        models = {name: _to_json(each._asdict()) for name, each in self.models.items()}
        return {key: _to_json(value) for key, value in self._asdict().items() if key not in MADE} | {"models": models}


def _to_json(value: Any) -> Any:
    """Return a value whose NaN, in mappings and lists too, are None."""
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, dict):
        return {key: _to_json(each) for key, each in value.items()}
    return [_to_json(each) for each in value] if isinstance(value, (list, tuple)) else value
