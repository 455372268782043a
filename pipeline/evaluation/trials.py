"""Trials, looks and markets: what `evaluate` and `holdout` record of every run, and the ledger counts.

A trial is one evaluated set of parameters. A look is one evaluation of a model on the holdout. Each is a line of JSON,
in the records of the stages as in the ledger, and names the market whose prices it saw.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
import pandas as pd

from pipeline import digests
from pipeline.evaluation import performance
from pipeline.evaluation.sharpe_sample import SharpeSample, measure_sharpe

DIGEST_LENGTH = 16  # hexadecimal digits
CLOSE_LENGTH = 6  # of the digest of one close: two markets share it by chance in one of 16 million days
NO_CLOSE = "-" * CLOSE_LENGTH
MAX_ANCHORS = 32  # days of a symbol whose closes identify a market

KINDS = ("trial", "look")
NUMBERS = ("sharpe", "n", "skew", "kurtosis", "bars", "observations", "bars_per_year", "first_day")

Line = dict[str, Any]  # of the ledger: plain values


@dataclass(frozen=True)
class Prices:
    """The days of one symbol, and digests of the last closes of some of them, its anchors.

    Anchors are the days that a power of 2 divides, the smallest that leaves at most `MAX_ANCHORS`. So two spans have
    the anchors of the longer one in common, where they overlap.
    """

    first_day: int  # days since 1970-01-01
    last_day: int
    closes: str  # of all anchors, joined

    @property
    def anchors(self) -> dict[int, str]:
        """The digest of the close by anchor, of those that have bars."""
        found = {
            day: self.closes[i * CLOSE_LENGTH : (i + 1) * CLOSE_LENGTH]
            for i, day in enumerate(list_anchors(self.first_day, self.last_day))
        }
        return {day: close for day, close in found.items() if close != NO_CLOSE}

    def overlaps(self, other: "Prices") -> bool:
        """Return whether both have days in common, and at least half of the closes at common anchors are the same.

        Without a common anchor nothing says that they are different.

        A simulated market and a real one of the same symbol and days differ there. A few corrected prices do not
        matter, nor does the length of the bars.
        """
        if self.last_day < other.first_day or other.last_day < self.first_day:
            return False
        own, others = self.anchors, other.anchors
        common = own.keys() & others.keys()
        return 2 * sum(own[day] == others[day] for day in common) >= len(common)


@dataclass(frozen=True)
class Market:
    """The prices that a trial saw, by symbol."""

    prices: Mapping[str, Prices]

    @property
    def digest(self) -> str:
        """The name of the market in the ledger."""
        return digest_json(asdict(self))

    def overlaps(self, other: "Market") -> bool:
        """Return whether both have days of a symbol in common."""
        return any(self.prices[symbol].overlaps(other.prices[symbol]) for symbol in self.prices.keys() & other.prices)


@dataclass(frozen=True)
class Trial:
    """The result of a set of parameters: the Sharpe ratio of its median path or on the holdout, and daily returns."""

    kind: Literal["trial", "look"]
    digest: str  # of the parameters
    digest_without_seed: str  # the same in trials that differ in the seed alone
    model: str
    target: str
    market: Market
    sample: SharpeSample
    bars_per_year: float
    first_day: int  # days since 1970-01-01
    daily: tuple[float | None, ...]  # net return of each day from the first on; None on a day without a bar
    inner_trials: int = 1  # seeds of the fits, and what a search for hyperparameters tried: no trials of their own

    @classmethod
    def from_line(cls, line: Line) -> "Trial":
        """Return the trial of a line that `make_line` made; ValueError where a value is of another type."""
        if line["kind"] not in KINDS:
            raise ValueError(f"kind is {line['kind']!r}; it must be one of {', '.join(KINDS)}")
        numbers = [*(line[name] for name in NUMBERS), *line["daily"]]
        if wrong := [each for each in numbers if each is not None and type(each) not in (int, float)]:
            raise ValueError(f"{wrong[0]!r} must be a number")
        sample: Line = {each.name: line[each.name] for each in fields(SharpeSample)}
        sample = {name: np.nan if value is None else value for name, value in sample.items()}
        names = [each.name for each in fields(cls) if each.name not in ("sample", "market", "inner_trials")]
        rest: Line = {name: line[name] for name in names} | {"inner_trials": line.get("inner_trials", 1)}
        return cls(
            **rest | {"daily": tuple(line["daily"])},
            sample=SharpeSample(**sample),
            market=Market({symbol: Prices(**prices) for symbol, prices in line["prices"].items()}),
        )

    def make_line(self) -> Line:
        """Return the trial as a line of the ledger."""
        sample = {name: None if np.isnan(value) else round_number(value) for name, value in asdict(self.sample).items()}
        line = asdict(self) | sample | asdict(self.market) | {"market": self.market.digest, "daily": list(self.daily)}
        return {name: value for name, value in line.items() if name != "sample"}


def digest_json(content: Any) -> str:
    """Return a short sha256 of plain values, whatever the order of their keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def make_trial(
    kind: Literal["trial", "look"],
    parameters: Mapping[str, Any],
    market: Market,
    *,
    target: str,
    time_ms: np.ndarray,
    net: np.ndarray,
    bars_per_year: float,
    risk_free_rate: float,
) -> Trial:
    """Return the trial or look of a set of parameters, `model` and `seeds` among them, from net returns (T,) by bar."""
    digest, digest_without_seed = digest_parameters(parameters)
    excess = performance.subtract_risk_free(net, risk_free_rate=risk_free_rate, bars_per_year=bars_per_year)
    first_day, daily = record_daily(time_ms, net)
    return Trial(
        kind=kind,
        digest=digest,
        digest_without_seed=digest_without_seed,
        model=parameters["model"],
        target=target,
        market=market,
        sample=measure_sharpe(excess),
        bars_per_year=bars_per_year,
        first_day=first_day,
        daily=daily,
        inner_trials=len(parameters["seeds"]) + parameters.get("inner_trials", 0),
    )


def digest_parameters(parameters: Mapping[str, Any]) -> tuple[str, str]:
    """Return the digest of a set of parameters, and that of the set without its `seeds`."""
    rest = {name: value for name, value in parameters.items() if name != "seeds"}
    return digest_json(dict(parameters)), digest_json(rest)


def describe_market(symbol: np.ndarray, time_ms: np.ndarray, close: np.ndarray) -> Market:
    """Return the market of bars (N,) of any order, by the last close of each symbol on each UTC day."""
    bars = pd.DataFrame({"symbol": symbol, "time": time_ms, "day": time_ms // performance.DAY_MS, "close": close})
    last = bars.sort_values("time", kind="stable").groupby(["symbol", "day"], observed=True)["close"].last()
    return Market({str(name): describe_prices(last[name].to_dict()) for name in last.index.unique("symbol")})


def describe_prices(closes: Mapping[int, float]) -> Prices:
    """Return the prices of a symbol from its last close by day."""
    first, last = int(min(closes)), int(max(closes))
    digests = [digest_close(closes[day]) if day in closes else NO_CLOSE for day in list_anchors(first, last)]
    return Prices(first, last, "".join(digests))


def list_anchors(first_day: int, last_day: int) -> list[int]:
    """Return the anchors of a span of days."""
    step = 1
    while (last_day - first_day + 1) // step > MAX_ANCHORS:
        step *= 2
    return list(range(-(-first_day // step) * step, last_day + 1, step))


def digest_close(close: float) -> str:
    """Return the short digest of a price."""
    return hashlib.sha256(f"{close:.10g}".encode()).hexdigest()[:CLOSE_LENGTH]


def spread_days(values: Mapping[int, Any], *, first: int, absent: Any) -> tuple[Any, ...]:
    """Return the values of the days from `first` to the last one, with `absent` on days that have none."""
    return tuple(values.get(day, absent) for day in range(first, max(values) + 1))


def record_daily(time_ms: np.ndarray, net: np.ndarray) -> tuple[int, tuple[float | None, ...]]:
    """Return the first day of net returns (T,), and the compounded return of each day from it on."""
    days, daily = performance.aggregate_days(time_ms, net)
    rounded = {int(day): round_number(value) for day, value in zip(days, daily, strict=True)}
    return int(days[0]), spread_days(rounded, first=int(days[0]), absent=None)


def round_number(value: float) -> float:
    """Return a number with the digits that the ledger keeps."""
    return value if isinstance(value, int) else float(f"{value:.8g}")


def render_lines(lines: list[Line]) -> str:
    """Return the text of lines of the ledger, each as JSON with sorted keys."""
    return "".join(json.dumps(line, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n" for line in lines)


def parse_lines(text: str, *, source: str) -> list[Line]:
    """Return the lines of a ledger or record, its digest aside; ValueError names the source and a line that is none."""
    lines = []
    for number, content in enumerate(digests.remove_record_digest(text).splitlines(), start=1):
        try:
            line = json.loads(content)
            Trial.from_line(line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{source}, line {number} is no line of a ledger ({error!r}); correct or delete it"
            ) from error
        lines.append(line)
    return lines
