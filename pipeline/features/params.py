"""The parameters of the features: block `datasets.<dataset>.features` of params.yaml, declared once."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Concatenate, ParamSpec, TypeVar

from annotated_types import Interval, Len, MinLen
from pydantic import PositiveFloat

from pipeline import config

MAX_BARS = 100_000
Window = Annotated[int, Interval(ge=1, le=MAX_BARS)]
LongWindow = Annotated[int, Interval(ge=2, le=MAX_BARS)]
Windows = Annotated[list[Window], MinLen(1)]
LongWindows = Annotated[list[LongWindow], MinLen(1)]
First = TypeVar("First")
Params = TypeVar("Params")
Result = TypeVar("Result")
Keys = ParamSpec("Keys")


@dataclass(frozen=True, kw_only=True)
class FeatureParams:
    """The windows of all features, in bars, and their other constants.

    Raises ValueError, which names the key, where a value is not allowed.
    """

    return_windows: Windows
    volatility_windows: Windows
    range_window: LongWindow
    sma_windows: LongWindows
    ema_windows: LongWindows
    bollinger_window: LongWindow
    bollinger_deviations: PositiveFloat
    rsi_windows: Windows
    macd_windows: Annotated[Windows, Len(3, 3)]  # fast, slow, signal
    momentum_windows: Windows
    stochastic_window: Window
    trend_window: Window
    volume_window: Window
    baseline_window: Window
    flow_window: Window
    liquidity_window: LongWindow
    vpin_buckets: Window
    vpin_bucket_bars: Window

    def __post_init__(self) -> None:
        """Raise ValueError where a value is not allowed, alone or beside another."""
        config.check_fields(self, name="features")
        for key in fields(self):
            windows = getattr(self, key.name)
            if isinstance(windows, list | tuple) and len(set(windows)) < len(windows):
                raise config.ParamsError(f"features.{key.name} is {windows}; its windows must differ")
        if self.macd_windows[0] >= self.macd_windows[1]:
            raise config.ParamsError(
                f"features.macd_windows is {self.macd_windows}; it must be [fast, slow, signal], fast below slow"
            )
        if self.baseline_window <= self.volume_window:
            raise config.ParamsError(
                f"features.baseline_window is {self.baseline_window}; it must be above volume_window, "
                f"{self.volume_window}"
            )


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
