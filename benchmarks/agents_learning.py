"""Measure what agents learn where the truth is known: `python benchmarks/agents_learning.py`, medians over seeds.

The blocks of params.yaml are fitted to bars of which a known share of the variance is predictable, with fees. The best
achievable net return is that of positions chosen with all expected moves known: dynamic programming over the positions
-1, 0 and 1, which is optimal since gains and costs are linear. The last market has jumps; it shows the price of risk
aversion.
"""

import argparse
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from joblib import Parallel, delayed
from scipy.signal import lfilter

from pipeline.fills import Fills
from pipeline.labels import KINDS
from pipeline.models.agents.engine.policy_evaluation import measure_shortfall
from pipeline.models.base import Signature
from pipeline.models.plugins import build
from pipeline.samples import Samples
from pipeline.trading import make_terms, trade

PARAMS = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))
MOVE_STD, HALF_LIFE = 1e-3, 10
ROWS = 40_000
TRAIN, VALID, TEST = np.split(np.arange(ROWS), [24_000, 28_000])
COSTS = {"fee_bps": 4.0, "slippage_bps": 1.0, "borrow_rate": 0.0}
RULES = ("no_trade_band", "long_only", "capital", "max_participation")
MARKET = {name: PARAMS["trading"][name] for name in RULES} | COSTS
JUMP_SHARE, JUMP_SIZE = 0.01, 6.0  # of the bars, and in standard deviations of a bar's return


def simulate_market(
    *, signal: float, rows: int, columns: int, seed: int, has_jumps: bool = False
) -> tuple[Samples, np.ndarray]:
    """Return bars whose variance is predictable from the first column by the share `signal`, and the expected moves."""
    rng, persistence = np.random.default_rng(seed), 0.5 ** (1 / HALF_LIFE)
    flow = lfilter([np.sqrt(1 - persistence**2)], [1, -persistence], rng.normal(size=rows))
    expected = MOVE_STD * np.sqrt(signal) * flow
    move = expected + MOVE_STD * np.sqrt(1 - signal) * rng.normal(size=rows)
    x = rng.normal(size=(rows, columns)).astype(np.float32)
    x[:, 0] = flow
    if has_jumps:  # the second column marks where they are likely; their sign is random
        is_likely = rng.random(rows) < 10 * JUMP_SHARE
        x[:, 1] = is_likely
        move += is_likely * (rng.random(rows) < 0.1) * rng.choice([-1, 1], rows) * JUMP_SIZE * MOVE_STD
    time, names = 60_000 * np.arange(rows, dtype=np.int64), tuple(f"column_{i}" for i in range(columns))
    segment = np.zeros(rows, np.int32)
    return Samples(time, time + 60_000, segment, x, names, move.astype(np.float32), fills=make_fills(move)), expected


def make_fills(move: np.ndarray) -> Fills:
    """Return fills of which each earns a move (n,), known at the close of the next row; no bar is idle or too thin."""
    zeros = np.zeros(len(move))
    return Fills(
        move=move,
        years=zeros,
        quote_volume=np.full(len(move), 1e12),
        outcome=np.zeros(len(move), np.int8),
        crosses_gap=np.zeros(len(move), bool),
        mark=np.append(0.0, move[:-1]),
    )


def find_best_positions(expected: np.ndarray, *, cost: float) -> np.ndarray:
    """Return the positions (n,) with the highest expected net return, all expected moves (n,) known.

    Dynamic programming; `cost` is charged on what is traded. Gains and costs are linear in the position, so that no
    position between -1, 0 and 1 is better than the best of these.
    """
    held = np.array([-1.0, 0.0, 1.0])
    value, choice = -cost * np.abs(held), np.empty((len(expected), 3), dtype=np.int64)
    for row in range(len(expected) - 1, -1, -1):
        gains = held * expected[row] - cost * np.abs(held[:, None] - held) + value  # (from, to)
        choice[row], value = gains.argmax(axis=1), gains.max(axis=1)
    positions, at = np.empty(len(expected)), 1
    for row in range(len(choice)):
        at = int(choice[row, at])
        positions[row] = held[at]
    return positions


def measure_agent(
    name: str, seed: int, *, signal: float, has_jumps: bool = False, changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the test figures of a model's block, fitted to a simulated market."""
    samples, expected = simulate_market(signal=signal, rows=ROWS, columns=8, seed=seed, has_jumps=has_jumps)
    block = PARAMS["models"]["agents"][name]
    block = block | {"hyperparameters": block["hyperparameters"] | (changes or {})}
    signature = Signature(columns=samples.columns, output=KINDS["position"].output)
    model = build("agents", block, signature, shared=PARAMS["agents"], market=MARKET, seed=seed)
    history = model.fit(samples, TRAIN, VALID)
    assert samples.fills is not None
    fills = samples.fills.take(TEST)
    own = trade(model.score(samples, TEST), fills, make_terms(**MARKET))
    best = find_best_positions(expected[TEST], cost=sum(COSTS.values()) / 1e4)
    most = trade(best, fills, make_terms(**MARKET | {"no_trade_band": 0.0}))
    return {
        "share": own.net.sum() / most.net.sum() if signal else float("nan"),
        "net_bps": own.net.mean() * 1e4,
        "turnover": own.turnover.mean(),
        "expected_shortfall_bps": measure_shortfall(own.net, level=0.95) * 1e4,
        "var_violation_rate": model.evaluate(samples, TEST)["var_violation_rate"],
        "curve": [-entry["valid_loss"] for entry in history],
    }


def list_cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a strong signal, none, and jumps at several risk aversions."""
    for name in ("d4pg", "marl"):
        yield f"{name}, signal 0.3", {"name": name, "signal": 0.3}
        yield f"{name}, null", {"name": name, "signal": 0.0}
    for aversion in (0.0, 0.1, 0.3, 1.0):
        changes = {"risk_aversion": aversion}
        case = {"name": "d4pg", "signal": 0.1, "has_jumps": True, "changes": changes}
        yield f"d4pg, jumps, risk_aversion {aversion}", case


def main() -> None:
    """Print a line for every case, with its valid objective by round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    for label, case in list_cases():
        if options.only not in label:
            continue
        found = Parallel(n_jobs=2)(delayed(measure_agent)(seed=seed, **case) for seed in range(1, options.seeds + 1))
        medians = {key: statistics.median(each[key] for each in found) for key in found[0] if key != "curve"}
        curve = [statistics.median(each["curve"][i] for each in found) for i in range(len(found[0]["curve"]))]
        print(label, {key: round(float(value), 4) for key, value in medians.items()}, "shares", end=" ")
        print([round(float(each["share"]), 3) for each in found], "curve", [round(value, 3) for value in curve])


if __name__ == "__main__":
    main()
