"""Forecasts in parts: by tiers of |score|, by sessions of the day, and as signals of the classes that are traded."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.targets import Output

HOUR_MS = 3_600_000
OFF_HOURS = "off_hours"  # no session is open
SESSION_JOINT = "_and_"  # between the names of sessions that are open together


def find_sides(y: np.ndarray, output: Output) -> np.ndarray:
    """Return (N,) the direction of y: 1 up, -1 down, 0 neither; of classes the last is up and the first is down."""
    if output.is_classification:
        return np.asarray((y == len(output.names) - 1).astype(np.int64) - (y == 0))
    return np.sign(y - output.neutral).astype(np.int64)


def measure_tiers(score: np.ndarray, side: np.ndarray, *, quantiles: Sequence[float]) -> list[dict[str, Any]]:
    """Return the metrics of predictions in tiers of |score|, the lowest first; `quantiles` of |score| divide them.

    `side` (N,) is the direction of y. In a tier, `precision_up` is the share of the rows with a positive score whose y
    goes up. `recall_up` is their number over that of all rows, of any tier, whose y goes up. `hit_rate` is the share of
    the tier's rows with a direction whose score has its sign. NaN, with the reason, where a metric has no rows.

    >>> tiers = measure_tiers(np.array([0.1, -0.2, 0.8, 0.9]), np.array([1, 1, 1, -1]), quantiles=[0.5])
    >>> [(tier["rows"], tier["precision_up"], tier["hit_rate"]) for tier in tiers]
    [(2, 1.0, 0.5), (2, 0.5, 0.5)]
    """
    size, sign = np.abs(score), np.sign(score)
    edges = [0.0, *(float(edge) for edge in np.quantile(size, quantiles)), np.inf]
    tiers = []
    for low, high in zip(edges, edges[1:], strict=False):
        own = (size >= low) & (size < high)
        tiers.append({"from_score": low, "rows": int(own.sum()), **_measure_tier(own, sign, side)})
    return tiers


def _measure_tier(own: np.ndarray, sign: np.ndarray, side: np.ndarray) -> dict[str, Any]:
    shares = {"hit_rate": (sign[own & (side != 0)] == side[own & (side != 0)], "no row of the tier has a direction")}
    for name, direction in (("up", 1), ("down", -1)):
        predicted = own & (sign == direction)
        found = predicted & (side == direction)
        shares[f"precision_{name}"] = (side[predicted] == direction, f"the tier never predicts {name}")
        shares[f"recall_{name}"] = (found[side == direction], f"y never goes {name}")
    return average_shares(shares)


def average_shares(shares: Mapping[str, tuple[np.ndarray, str]]) -> dict[str, Any]:
    """Return the mean of each bool array by its name, and under `undefined` the reason of each that is empty."""
    means = {name: float(values.mean()) if len(values) else np.nan for name, (values, _) in shares.items()}
    return means | {"undefined": {name: reason for name, (values, reason) in shares.items() if not len(values)}}


def name_sessions(time_ms: np.ndarray, sessions: Mapping[str, Sequence[float]]) -> np.ndarray:
    """Return (N,) the names of the sessions that are open at each instant, such as `asia`, `europe_and_us`.

    A session is open from its first hour of the day, UTC, until its last; it may pass midnight, as [22, 6] does.

    >>> name_sessions(np.array([8, 23]) * HOUR_MS, {"asia": [0, 9], "europe": [7, 16]}).tolist()
    ['asia_and_europe', 'off_hours']
    """
    hour = time_ms % (24 * HOUR_MS) / HOUR_MS
    is_open = {
        name: (hour >= first) & (hour < last) if first <= last else (hour >= first) | (hour < last)
        for name, (first, last) in sessions.items()
    }
    code = sum((opened * 2**i for i, opened in enumerate(is_open.values())), start=np.zeros(len(hour), np.int64))
    names = [SESSION_JOINT.join(name for i, name in enumerate(is_open) if c >> i & 1) for c in range(2 ** len(is_open))]
    return np.asarray([name or OFF_HOURS for name in names])[code]


def measure_sessions(session: np.ndarray, score: np.ndarray, side: np.ndarray) -> dict[str, dict[str, Any]]:
    """Return the rows and the hit rate of each session; every row stands in one, so that the rows add up.

    The standard error of a hit rate is that of independent rows, which overlapping labels make too small.
    """
    found = {}
    for name in np.unique(session):
        own = session == name
        hits = (np.sign(score) == side)[own & (side != 0)]
        entry = average_shares({"hit_rate": (hits, "no row has a direction")})
        share, rows = entry["hit_rate"], len(hits)
        found[str(name)] = {
            "rows": int(own.sum()),
            **entry,
            "error": np.sqrt(share * (1 - share) / rows) if rows else share,
        }
    return found


def measure_signals(codes: np.ndarray, probabilities: np.ndarray, output: Output) -> dict[str, Any]:
    """Return the metrics of the trades that the likeliest classes (N, classes) suggest, for class codes (N,).

    `signal_rate` is the share of rows whose likeliest class is up or down. Of these, `predicted_trade_win_rate` is the
    share whose class is the predicted one, and `decisive_rate` the share whose class is not neutral. Of the decisive
    ones, `directional_accuracy` is the share predicted correctly: the win rate is the product of the last two.
    """
    likeliest = probabilities.argmax(axis=1)
    neutral = output.names.index(output.neutral_class) if output.neutral_class else -1
    is_signal, is_decisive, is_right = likeliest != neutral, codes != neutral, likeliest == codes
    none = "no row is predicted up or down"
    return average_shares(
        {
            "signal_rate": (is_signal, "no rows"),
            "predicted_trade_win_rate": (is_right[is_signal], none),
            "decisive_rate": (is_decisive[is_signal], none),
            "directional_accuracy": (is_right[is_signal & is_decisive], "no predicted trade is decisive"),
        }
    )
