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
    numbers: list[float]  # of each model: score, target, position, and its prediction
    places: list[tuple[str, int, int, bool]]  # of each model: its name, where its numbers begin and end, is_full

    @property
    def models(self) -> dict[str, ModelSignal]:
        """The part of each model, by its name; computed at each access."""
        found = {}
        for name, start, stop, is_full in self.places:
            score, target, position, *prediction = self.numbers[start:stop]
            found[name] = ModelSignal(tuple(prediction), score, target, position, is_full)
        return found

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
