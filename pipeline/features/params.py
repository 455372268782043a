"""The parameters of the features: block `datasets.<dataset>.features` of params.yaml, declared once."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Concatenate, ParamSpec, TypeVar

First = TypeVar("First")
Params = TypeVar("Params")
Result = TypeVar("Result")
Keys = ParamSpec("Keys")


@dataclass(frozen=True, kw_only=True)
class FeatureParams:
    """The windows of all features, in bars, and their other constants.

    Raises ValueError, which names the key, where a value is not allowed.
    """

    return_windows: Sequence[int]
    volatility_windows: Sequence[int]
    range_window: int = field(metadata={"minimum": 2})
    sma_windows: Sequence[int] = field(metadata={"minimum": 2})
    ema_windows: Sequence[int] = field(metadata={"minimum": 2})
    bollinger_window: int = field(metadata={"minimum": 2})
    bollinger_deviations: float
    rsi_windows: Sequence[int]
    macd_windows: Sequence[int]  # fast, slow, signal
    momentum_windows: Sequence[int]
    stochastic_window: int
    trend_window: int
    volume_window: int
    baseline_window: int
    flow_window: int
    liquidity_window: int = field(metadata={"minimum": 2})
    vpin_buckets: int
    vpin_bucket_bars: int

    def __post_init__(self) -> None:
        """Raise ValueError where a value is not allowed, alone or beside another."""
        for key in fields(self):
            value, minimum = getattr(self, key.name), key.metadata.get("minimum", 1)
            if key.name.endswith("_windows"):
                check_windows(key.name, value, minimum=minimum)
            elif key.name.endswith("_deviations"):
                check_multiple(key.name, value)
            else:
                check_window(key.name, value, minimum=minimum)
        check_macd_windows(self.macd_windows)
        check_window("baseline_window", self.baseline_window, minimum=self.volume_window + 1)


def check_window(name: str, value: object, *, minimum: int) -> None:
    """Raise ValueError, naming the parameter, unless `value` is a whole number of at least `minimum` bars."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"features.{name}: got {value!r}; allowed is a whole number, {minimum} or more")


def check_windows(name: str, values: object, *, minimum: int) -> None:
    """Raise ValueError unless `values` are one or more different windows of at least `minimum` bars."""
    if not isinstance(values, list | tuple) or not values or len(set(map(repr, values))) != len(values):
        raise ValueError(f"features.{name}: got {values!r}; allowed is a list of different whole numbers")
    for value in values:
        check_window(name, value, minimum=minimum)


def check_macd_windows(values: Sequence[int]) -> None:
    """Raise ValueError unless `values` are three windows, the first below the second."""
    if len(values) != 3 or values[0] >= values[1]:
        raise ValueError(f"features.macd_windows: got {list(values)}; allowed is [fast, slow, signal], fast below slow")


def check_multiple(name: str, value: object) -> None:
    """Raise ValueError unless `value` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < math.inf:
        raise ValueError(f"features.{name}: got {value!r}; allowed is a number above 0")


def expand_params(
    params: Callable[Keys, Params],
) -> Callable[[Callable[[First, Params], Result]], Callable[Concatenate[First, Keys], Result]]:
    """Return a decorator that replaces a function's second argument, a dataclass, by the keywords of that dataclass.

    mypy checks the keywords, and `inspect.signature` (so `config.call_with` too) lists them.
    """

    def decorate(function: Callable[[First, Params], Result]) -> Callable[Concatenate[First, Keys], Result]:
        @functools.wraps(function)
        def call(first: First, /, *args: Keys.args, **keywords: Keys.kwargs) -> Result:
            return function(first, params(*args, **keywords))

        own = inspect.signature(function)
        first, keys = next(iter(own.parameters.values())), inspect.signature(params).parameters.values()
        vars(call)["__signature__"] = own.replace(parameters=[first, *keys])
        return call

    return decorate
