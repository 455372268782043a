"""Metrics of a target's kind of strategy, beside what its calls earn at the quotes: labels against executable returns.

A call is a row whose likeliest class is up or down, or whose predicted value is above or below neutral. What it earns
is the trade from the order to the end of the label: buying at the ask and selling at the bid, or the reverse.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.evaluation_data import EvaluationData, Executable
from pipeline.evaluation.forecast_gains import bootstrap_means, judge_interval, take_indicator
from pipeline.evaluation.forecast_parts import average_shares, find_sides
from pipeline.evaluation.portfolio import trade_predictions
from pipeline.evaluation.predictions import select_labeled
from pipeline.targets import Output

BASELINES = {"constant": "beats_prior", "previous": "beats_previous", "linear": "beats_linear"}
PARTS = 10  # of a path, of equally many events or of equal time, whose net returns are reported
Shares = dict[str, tuple[np.ndarray, str]]


def describe_strategy(
    predictions: pd.DataFrame,
    baselines: Mapping[str, np.ndarray],
    gains: Mapping[str, Mapping[str, Any]],
    data: EvaluationData,
    *,
    quantiles: Sequence[float],
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Return under `strategy` the metrics of the predictions of one path, for a target that has a strategy.

    `baselines` have the predictions of the labeled rows by their names, `gains` is what `measure_gains` returns, and
    `quantiles` of |score| divide tiers. `improvement` is the accuracy of classes less that of each baseline, or the
    share of a baseline's squared error that is saved; `beats_…` is null where its interval holds 0.
    """
    assert data.strategy is not None
    labeled, output = select_labeled(predictions, data.is_labeled), data.output
    rows, predicted = labeled["row"].to_numpy(), labeled[list(output.names)].to_numpy(np.float64)
    y = data.y[rows]
    improvement = {name: found["loss"] for name, found in gains.items()}
    if output.is_classification:
        instant = np.unique(data.rows["time"].to_numpy()[rows], return_inverse=True)[1]
        improvement = compare_accuracy(
            y, predicted, baselines, instant, confidence=confidence, resamples=resamples, seed=seed
        )
    found: dict[str, Any] = {
        **data.strategy,
        "metrics": measure_calls(y, predicted, data.strategy, output),
        "improvement": improvement,
        **{flag: improvement[name]["beats"] for name, flag in BASELINES.items() if name in improvement},
        "executable": None,
        "net_returns": None,
    }
    if output.has_direction and data.measure_executable:
        earned = execute_rows(rows, data)
        side, conviction = find_calls(predicted, output), np.abs(take_indicator(predicted, output) - _neutral(output))
        cost_bps = data.costs.fee_bps + data.costs.slippage_bps
        arguments = (side, find_sides(y, output), earned)
        found["executable"] = measure_earnings(*arguments, conviction, quantiles=quantiles, cost_bps=cost_bps)
    if "score" in predictions:
        found["net_returns"] = divide_net_returns(predictions, data)
    return {"strategy": found}


def find_calls(predicted: np.ndarray, output: Output) -> np.ndarray:
    """Return (N,) the side that each prediction (N, outputs) calls: 1 up, -1 down, 0 neither."""
    if output.is_classification:
        return find_sides(predicted.argmax(axis=1), output)
    return np.sign(output.take_center(predicted) - output.neutral).astype(np.int64)


def _neutral(output: Output) -> float:
    return 0.0 if output.is_classification else output.neutral


def measure_calls(y: np.ndarray, predicted: np.ndarray, strategy: Mapping[str, Any], output: Output) -> dict[str, Any]:
    """Return the metrics of the calls of a strategy, for labels y (N,); NaN, with the reason, where there is no call.

    `signal_rate` is the share of rows with a call. `directional_accuracy` is the share of calls whose label is on the
    called side: a flat label is wrong. A barrier has `win_rate` instead, `decisive_rate`, the share of calls whose
    label is not flat, and `break_even_rate`: the share of decisive calls that must win, before costs, where a win gains
    the distance of one barrier and a loss that of the other. An opportunity's signal rate is its `prediction_rate`. A
    large move has the precision and the recall of its class.
    """
    if not output.has_direction:
        large = len(output.names) - 1
        return _measure_large(y == large, predicted.argmax(axis=1) == large)
    called, side = find_calls(predicted, output), find_sides(y, output)
    none, is_call = "no row is called up or down", called != 0
    is_right = (called == side)[is_call]
    if strategy["kind"] == "barrier":
        profit, stop = strategy["profit"], strategy["stop"]
        needed = np.where(called[is_call] > 0, stop, profit) / (profit + stop)
        decisive = (side != 0)[is_call]
        shares: Shares = {
            "signal_rate": (is_call, "no rows"),
            "win_rate": (is_right, none),
            "decisive_rate": (decisive, none),
            "win_rate_of_decisive": (is_right[decisive], "no call is decisive"),
            "break_even_rate": (needed, none),
        }
        return average_shares(shares)
    rate = "prediction_rate" if strategy["kind"] == "opportunity" else "signal_rate"
    return average_shares({rate: (is_call, "no rows"), "directional_accuracy": (is_right, none)})


def _measure_large(is_large: np.ndarray, is_called: np.ndarray) -> dict[str, Any]:
    return average_shares(
        {
            "prediction_rate": (is_called, "no rows"),
            "precision": (is_large[is_called], "no row is predicted to be large"),
            "recall": (is_called[is_large], "no row is large"),
        }
    )


def compare_accuracy(
    y: np.ndarray,
    predicted: np.ndarray,
    baselines: Mapping[str, np.ndarray],
    instant: np.ndarray,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Return the accuracy of classes less that of each baseline, with the interval of the bootstrap by blocks of time.

    `instant` (N,) are codes 0, 1 … of the rows' times, in their order; see `forecast_gains.bootstrap_means`.
    """
    is_right = predicted.argmax(axis=1) == y
    differences = np.column_stack(
        [is_right.astype(np.float64) - (other.argmax(axis=1) == y) for other in baselines.values()]
    )
    values = differences.mean(axis=0)
    intervals = bootstrap_means(differences - values, instant, confidence=confidence, resamples=resamples, seed=seed)
    found = {}
    for name, value, ends in zip(baselines, values, intervals, strict=True):
        low, high = (float(value + end) for end in ends)
        reason = "too few instants for an interval" if np.isnan(low) else None
        beats = judge_interval(low=low, high=high)
        found[name] = {"value": float(value), "low": low, "high": high, "beats": beats, "reason": reason}
    return found


def execute_rows(rows: np.ndarray, data: EvaluationData) -> Executable:
    """Return what trades at labeled rows (n,) of the data earn at the quotes, with its delay, fee and slippage."""
    assert data.measure_executable is not None and data.label_end is not None
    return data.measure_executable(
        data.clean,
        segment=data.rows["segment"].to_numpy()[rows],
        time=data.rows["time"].to_numpy()[rows],
        label_end=data.label_end[rows],
        delay_bars=data.rules.delay_bars,
        cost_bps=data.costs.fee_bps + data.costs.slippage_bps,
    )


def measure_earnings(
    called: np.ndarray,
    side: np.ndarray,
    earned: Executable,
    conviction: np.ndarray,
    *,
    quantiles: Sequence[float],
    cost_bps: float,
) -> dict[str, Any]:
    """Return for all calls, those up, those down, and by tiers of conviction, the score on labels and the earnings.

    `called` and `side` (N,) are the sides of calls and of labels. Of the calls with quotes: `accuracy` on labels, the
    mean net return and the share of positive ones, the mean move of the mid to the called side, the half spread, and
    the half spread at which the mean net return is 0, at `cost_bps` on each side. Returns are in bps of the value.
    """
    edges = [0.0, *(float(edge) for edge in np.quantile(conviction, quantiles)), np.inf]
    selections = {"all": called != 0, "up": called > 0, "down": called < 0}
    pairs = zip(edges, edges[1:], strict=False)
    tiers = [(called != 0) & (conviction >= low) & (conviction < high) for low, high in pairs]
    measured = {name: _measure_calls(own, called, side, earned, cost_bps) for name, own in selections.items()}
    by_tier = [_measure_calls(own, called, side, earned, cost_bps) for own in tiers]
    return measured | {"tiers": [{"from": low, **tier} for low, tier in zip(edges, by_tier, strict=False)]}


def _measure_calls(
    own: np.ndarray, called: np.ndarray, side: np.ndarray, earned: Executable, cost_bps: float
) -> dict[str, Any]:
    net = np.where(called > 0, earned.long, earned.short)
    traded = own & np.isfinite(net)
    net, move, none = net[traded], (called * earned.move)[traded], "no call has quotes"
    found = average_shares(
        {
            "accuracy": ((called == side)[traded], none),
            "net_return_bps": (1e4 * net, none),
            "profitable": (net > 0, none),
            "move_bps": (1e4 * move, none),
            "half_spread_bps": (1e4 * earned.half_spread[traded], none),
        }
    )
    undefined = found.pop("undefined")
    break_even = found["move_bps"] / 2 - cost_bps
    return {
        "calls": int(own.sum()),
        "traded": int(traded.sum()),
        **found,
        "break_even_half_spread_bps": break_even,
        "undefined": undefined | ({} if traded.any() else {"break_even_half_spread_bps": none}),
    }


def divide_net_returns(predictions: pd.DataFrame, data: EvaluationData) -> dict[str, list[dict[str, Any]]]:
    """Return the sums of the portfolio's returns in parts of equally many events, and in parts of equal time."""
    result = trade_predictions(predictions, data)
    instants, back = data.to_ms(result.time), result.backtest
    by_time = np.searchsorted(np.linspace(instants[0], instants[-1], PARTS + 1)[1:-1], instants, side="right")
    numbers = {"by_events": np.arange(len(instants)) * PARTS // len(instants), "by_time": by_time}
    amounts = {"net_return": back.net, "gross_return": back.gross.sum(axis=1), "costs": back.cost.sum(axis=1)}
    return {
        clock: [
            {
                "from_ms": int(instants[part == number][0]),
                "events": int((part == number).sum()),
                **{name: float(amount[part == number].sum()) for name, amount in amounts.items()},
            }
            for number in np.unique(part)
        ]
        for clock, part in numbers.items()
    }
