"""A tiny bundle of made-up bars and graphs; its golden rows come from the functions of the backtest, row by row."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import percentileofscore

from pipeline import digests
from pipeline.fills import find_fills
from pipeline.models.onnx_session import open_session
from pipeline.targets import Output
from pipeline.trading import make_terms, mark_account, step_account
from tests import bundles

INTERVAL_MS, WARM_UP_BARS, BARS = 60_000, 5, 60
SYMBOLS, COLUMNS = ("AAA", "BBB"), ["one", "two", "three"]
ACCOUNT_COLUMNS = ["position", "unrealized", "log_bars_since_entry"]
WEIGHTS = {"net": 0.375, "classes": 0.625}  # not the order of the models
TRADING = bundles.TRADING | {"no_trade_band": 0.1}
OUTPUTS = {
    "classes": (Output(kind="classes", names=("down", "flat", "up")), "Softmax", 0.1),
    "net": (Output(kind="value", names=("return",)), "Tanh", 0.2),
    "up": (Output(kind="probability", names=("up",)), "Sigmoid", None),
    "quantiles": (Output(kind="quantiles", names=("a", "b", "c"), levels=(0.1, 0.4, 0.7)), "Tanh", 0.1),
    "range": (Output(kind="value", names=("range",), has_direction=False), "Sigmoid", 0.1),
    "horizons": (Output(kind="horizons", names=("return_ahead_1", "return_ahead_5"), horizons=(1, 5)), "Tanh", 0.3),
    "agent": (Output(kind="position", names=("position",)), "Tanh", None),
}
WINDOWS = {"net": 4}


class Market(NamedTuple):
    """Bars of one symbol, and their features."""

    bars: pd.DataFrame
    x: np.ndarray  # (N, F) float32
    run: np.ndarray  # (N,) number of the bar among those of its segment with features; below 0 before


def write_bundle(
    folder: Path,
    markets: dict[str, Market] | None = None,
    *,
    columns: Sequence[str] = COLUMNS,
    models: Sequence[str] = tuple(OUTPUTS),
    is_ranked: bool = False,
    **trading: Any,
) -> None:
    """Write contract, graphs, golden rows and digests; `trading` replaces terms. Markets are made up by default."""
    rng = np.random.default_rng(7)
    markets = markets or {symbol: make_market(symbol, rng) for symbol in SYMBOLS}
    terms, weights = TRADING | trading, {name: WEIGHTS[name] for name in WEIGHTS if name in models}
    described = {name: describe_model(name, list(columns), list(markets)) for name in models}
    for name in models:
        write_graph(folder / f"{name}.onnx", name, rng)
    contract = {
        "schema_version": "2.0" if is_ranked else "1.0",
        "dataset": "tiny",
        "signal": "voting",
        "bars": {"interval_ms": INTERVAL_MS, "symbols": list(markets), "calendar": {"exchange": None}},
        "columns": list(columns),
        "models": described,
        "ensemble": {"name": "voting", "weights": weights},
        "trading": terms,
    }
    if is_ranked:
        references = {name: np.sort(rng.normal(size=16, scale=0.1)).tolist() for name in weights}
        contract["ensemble"]["references"] = references
    (folder / "contract.json").write_text(json.dumps(contract, indent=2))
    tables = [
        make_rows(folder, market, contract, terms | {"capital": terms["capital"] / len(markets)}, terms)
        for market in markets.values()
    ]
    write_text(folder / "golden.csv", pd.concat(tables).sort_values("open_time", kind="stable"))
    digests.write_sums(folder)


def describe_model(name: str, columns: list[str], symbols: list[str]) -> dict[str, Any]:
    output, _, score_std = OUTPUTS[name]
    return {
        "graph": f"{name}.onnx",
        "columns": [columns[2], columns[0]],
        "account_columns": ACCOUNT_COLUMNS if output.kind == "position" else [],
        "window": WINDOWS.get(name),
        "symbols": symbols[:1] if name == "up" else symbols,
        "output": output.describe(),
        "score_std": score_std,
    }


def write_graph(file: Path, name: str, rng: np.random.Generator) -> None:
    """Write a graph of one layer: `inputs` (batch, …) -> `answer` (batch, outputs)."""
    output, activation, _ = OUTPUTS[name]
    width = 5 if output.kind == "position" else 2
    shape = [None, WINDOWS[name], width] if name in WINDOWS else [None, width]
    size = WINDOWS.get(name, 1) * width
    weights = rng.normal(size=(size, len(output.names))).astype(np.float32) / np.float32(size)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["inputs"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["sum"]),
            helper.make_node(activation, ["sum"], ["answer"]),
        ],
        name,
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [None, len(output.names)])],
        [numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)


def make_market(symbol: str, rng: np.random.Generator) -> Market:
    """Return bars with a gap after a third of them, some without volume and some with little, and their features."""
    gap = tuple(range(BARS // 3, BARS // 3 + 4))
    bars = bundles.make_bars(BARS + len(gap), seed=int(rng.integers(1 << 31)), idle_share=0.2, missing=gap)
    bars = bars[["segment", "open_time", "open", "close", "volume", "quote_volume"]].assign(symbol=symbol)
    bars[["volume", "quote_volume"]] *= 100.0  # some orders are limited by it
    run = bars.groupby("segment").cumcount().to_numpy() - WARM_UP_BARS
    return Market(bars, rng.normal(size=(BARS, len(COLUMNS))).astype(np.float32), run)


def make_rows(
    folder: Path, market: Market, contract: dict[str, Any], shared: dict[str, Any], alone: dict[str, Any]
) -> pd.DataFrame:
    """Return the golden rows of a symbol; an agent trades on the terms `alone`, others on those of a shared capital."""
    bars, x, run = market
    columns = dict(zip(contract["columns"], x.T, strict=True))
    walk, targets = Walk(bars, run, shared=shared, alone=alone), {}
    for name, model in contract["models"].items():
        if bars["symbol"].iloc[0] in model["symbols"]:
            found, targets[name] = walk.predict(folder / model["graph"], name, x[:, [2, 0]])
            columns |= found
    total = np.zeros(len(bars))
    for name, weight in contract["ensemble"]["weights"].items():
        vote = targets[name]
        if references := contract["ensemble"].get("references"):
            percentiles = [
                percentileofscore(references[name], score, kind="mean") for score in columns[f"{name}.score"]
            ]
            vote = np.round(np.array(percentiles) / 100 * 32) / 16 - 1  # of 16 numbers, equal ones count half
        total = total + weight * np.where(run + 1 >= WINDOWS.get(name, 1), vote, 0.0)
    total = np.where(run >= 0, total.clip(-1, 1), np.nan)
    columns["voting.target"] = total
    columns["voting.position"] = walk.follow(lambda i, account: total[i], is_agent=False)
    table = pd.concat([bars.drop(columns="segment"), pd.DataFrame(columns)], axis=1)
    table.loc[run < 0, list(columns)] = np.nan
    return table


class Walk:
    """The rows of one symbol, one after another, each with the account that is known at its close."""

    def __init__(self, bars: pd.DataFrame, run: np.ndarray, *, shared: dict[str, Any], alone: dict[str, Any]) -> None:
        """Fill the orders of all bars; `run` (N,) is that of a `Market`."""
        self.bars, self.run, self.full = bars, run, alone["full_position_std"]
        self.fills = find_fills(bars, delay_bars=alone["delay_bars"])
        named = [key for key in alone if key not in ("full_position_std", "delay_bars")]
        self.alone, self.shared = (make_terms(**{key: terms[key] for key in named}) for terms in (alone, shared))

    def follow(self, decide, *, is_agent: bool) -> np.ndarray:
        """Return (N,) the weights seen at each close of an account whose targets are `decide(row, account)`.

        An agent's begins flat where the features of a segment begin; nothing from before is known there.
        """
        fills, terms, count = self.fills, self.alone if is_agent else self.shared, len(self.bars)
        held, unrealized, since, first = 0.0, 0.0, 0, 0
        filled, before, seen = np.empty(count), [(0.0, 0.0, 0)] * count, np.empty(count)
        for i in range(count):
            if is_agent and self.run[i] == 0:
                held, unrealized, since, first = 0.0, 0.0, 0, i
            at, account = i - fills.lag[i], (0.0, 0.0, 0)
            if at >= first:
                account = mark_account(filled[at], before[at], fills.mark[i], terms)
            seen[i] = account[0]
            target = decide(i, account) if self.run[i] >= 0 else np.nan
            before[i] = (held, unrealized, since)
            fill = (fills.move[i], fills.years[i], fills.quote_volume[i], int(fills.outcome[i]))
            step, held, unrealized, since = step_account(target, held, unrealized, since, fill, False, terms)
            filled[i] = step.position
        return seen

    def predict(self, graph: Path, name: str, x: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return the golden columns of a model and its targets (N,), from features (N, F); NaN while they warm up."""
        session, (output, _, score_std), window = open_session(graph), OUTPUTS[name], WINDOWS.get(name)
        predicted = np.full((len(x), len(output.names)), np.nan, np.float32)
        score, target = np.full(len(x), np.nan, np.float32), np.full(len(x), np.nan)
        given = np.full((len(x), 3), np.nan, np.float32)
        is_agent = output.kind == "position"

        def decide(i: int, account: tuple[float, float, int]) -> float:
            inputs = x[i]
            if window is not None:
                inputs = x[[max(k, i - self.run[i]) for k in range(i - window + 1, i + 1)]]
            if is_agent:
                given[i] = account[0], account[1], np.log1p(account[2])
                inputs = np.append(inputs, given[i])
            predicted[i] = session.run(["answer"], {"inputs": inputs[None]})[0][0]
            if not output.no_score_reason:
                score[i] = output.to_score(predicted[i : i + 1])[0]
                target[i] = self.size(float(score[i]), score_std, is_agent=is_agent)
            return target[i]

        position = self.follow(decide, is_agent=is_agent)
        columns = {f"{name}.prediction.{key}": predicted[:, k] for k, key in enumerate(output.names)}
        columns |= {f"{name}.score": score, f"{name}.target": target}
        columns |= {f"{name}.position": position}
        columns[f"{name}.is_full"] = np.where(self.run + 1 >= (window or 1), "1", "0").astype(object)
        if is_agent:
            columns |= {f"{name}.account.{key}": given[:, k] for k, key in enumerate(ACCOUNT_COLUMNS)}
        return columns, target

    def size(self, score: float, score_std: float | None, *, is_agent: bool) -> float:
        """Return the target position of a score."""
        if is_agent:
            return score
        return min(max(score / (score_std * self.full), -1.0), 1.0) if score_std else 0.0


def write_text(file: Path, rows: pd.DataFrame) -> None:
    """Write rows with the shortest decimals that read back to the same bits; what is undefined is empty."""
    lines = [",".join(rows.columns)]
    columns = [rows[name].to_numpy() for name in rows.columns]
    for i in range(len(rows)):
        lines.append(",".join(format_cell(column[i]) for column in columns))
    file.write_text("\n".join(lines) + "\n")


def format_cell(value: Any) -> str:
    """Return a number or a name as text."""
    if isinstance(value, str):
        return value
    return "" if value != value else str(value)
