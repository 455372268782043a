from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline.leakage import association
from pipeline.leakage.features import look_ahead, target_leakage, truncation
from pipeline.leakage.findings import Finding

BAR = 60_000
DATA = Path(__file__).parents[2] / "shared" / "data"
LIMITS = {"ratio": 0.6, "floor": 0.5}


def simulate_walk(count: int, *, seed: int) -> pd.DataFrame:
    """Simulate a random walk of one symbol: prices and volumes without predictive power."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.standard_t(4, count)) * 1e-3)
    volume = rng.lognormal(size=count) * (rng.random(count) > 0.1)
    return pd.DataFrame({"close": close, "high": close * 1.01, "low": close * 0.99, "volume": volume})


def load_slice(file: str) -> pd.DataFrame:
    if not DATA.is_dir():
        pytest.skip(f"{DATA.name} of the workplace is not here: real slices are not part of the repository")
    return pd.read_parquet(DATA / file, columns=["close", "high", "low", "volume", "taker_buy_base"]).iloc[:20_000]


def take_moves(bars: pd.DataFrame) -> np.ndarray:
    return bars["close"].pct_change().shift(-1).fillna(0.0).to_numpy()


def make_segments(*lengths: int, gap: int = 10) -> pd.DataFrame:
    """Make a clean table of one symbol with a gap after each segment."""
    segment = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    time = (np.arange(len(segment)) + gap * segment.astype(np.int64)) * BAR
    return simulate_walk(len(segment), seed=3).assign(symbol="A", open_time=time, segment=segment)


def compute_after_three_bars(bars: pd.DataFrame, feature) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of each segment but its first three, and `feature` of the segment's bars for them."""
    known = pd.concat([pd.DataFrame(feature(part)) for _, part in bars.groupby("segment")]).astype(np.float32)
    rows = np.flatnonzero(bars.groupby("segment").cumcount() >= 3)
    return rows, known.to_numpy()[rows]


# truncation

CAUSAL = {
    "sma": lambda bars: bars["close"].rolling(3).mean(),
    "return": lambda bars: np.log(bars["close"]).diff(2),
    "filled": lambda bars: bars["close"].where(bars["volume"] > 0).ffill(),
    "expanding": lambda bars: bars["close"] / bars["close"].expanding().mean(),
}
LEAKING = {
    "shifted": lambda bars: np.log(bars["close"]).diff().shift(-1),
    "centered": lambda bars: bars["close"].rolling(3, center=True).mean(),
    "filled": lambda bars: bars["close"].where(bars.index % 4 == 0).bfill(),
    "standardized": lambda bars: (bars["close"] - bars["close"].mean()) / bars["close"].std(),
    "ranked": lambda bars: bars["close"].rank(pct=True),
}


@pytest.mark.parametrize("name", CAUSAL)
def test_truncation_finds_nothing_in_a_causal_column(name: str):
    found = truncate(make_segments(60, 5, 40), lambda part: {name: CAUSAL[name](part)}, [name])
    assert (found.severity, found.measurements["changed"]) == ("ok", {})


@pytest.mark.parametrize("name", LEAKING)
def test_truncation_names_the_column_that_reads_the_future(name: str):
    def feature(part: pd.DataFrame) -> dict[str, pd.Series]:
        return {"fine": CAUSAL["sma"](part), name: LEAKING[name](part)}

    found = truncate(make_segments(60, 5, 40), feature, ["fine", name])
    assert found.severity == "critical"
    assert list(found.measurements["changed"]) == [name]
    assert f"{name}, bar at " in found.message


def truncate(bars: pd.DataFrame, feature, columns: list[str]) -> Finding:
    return check_truncation(bars, lambda table: compute_after_three_bars(table, feature), columns, cuts=16)


def check_truncation(bars: pd.DataFrame, recompute, columns: list[str], *, cuts: int) -> Finding:
    """Return the finding for a table that is stored as it was computed."""
    return truncation(bars, lambda table: [recompute(table)], recompute(bars), columns, cuts=cuts, seed=1)


def test_truncation_names_the_first_bar_that_changes():
    bars = make_segments(30)
    found = truncate(bars, lambda part: {"next": part["close"].shift(-1)}, ["next"])
    change = found.measurements["changed"]["next"]
    assert change["row"] == change["time_ms"] // BAR == change["cut_after_ms"] // BAR  # the last bar before the cut


def test_truncation_finds_a_change_of_one_bit():
    def recompute(bars: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        x = np.ones((len(bars), 2), dtype=np.float32)
        x[5:6, 1] = np.nextafter(np.float32(1), np.float32(2)) if len(bars) < 30 else 1
        return np.arange(len(bars)), x

    found = check_truncation(make_segments(30), recompute, ["a", "b"], cuts=8)
    assert {name: change["row"] for name, change in found.measurements["changed"].items()} == {"b": 5}


def test_truncation_finds_rows_that_are_selected_by_later_bars():
    def recompute(bars: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        rows = np.flatnonzero(bars["close"].shift(-1).notna())
        return rows, bars[["close"]].to_numpy(np.float32)[rows]

    assert list(check_truncation(make_segments(30), recompute, ["a"], cuts=4).measurements["changed"]) == [
        "row selection"
    ]


# Each column leaks in one kind of place only.
HIDDEN = {
    "at the end of a segment": lambda bars: bars["close"].where(bars.index < len(bars) - 1, bars["next"]),
    "in the first bars of a segment": lambda bars: bars["close"].where(bars.index >= 1, bars["next"]),
    "where a day ends": lambda bars: bars["next"].where(bars["open_time"].shift(-1) % DAY == 0, bars["close"]),
    "in bars without trades": lambda bars: bars["close"].where(bars["volume"] > 0).bfill(),
    "in the buckets of a slow column": lambda bars: (
        bars["close"].groupby(bars["open_time"] // (9 * BAR)).transform("last")
    ),
}
DAY = 86_400_000


@pytest.mark.parametrize("where", HIDDEN)
def test_truncation_finds_a_hidden_leak(where: str):
    bars = make_segments(3_000, 3_000, gap=0)
    bars["volume"] = np.where(bars.index % 1_000 < 3, 0.0, 1.0)
    bars["next"] = bars["close"].shift(-1, fill_value=0.0)  # across the border as well

    def recompute(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        known = table.assign(next=table["close"].shift(-1, fill_value=0.0))
        parts = [HIDDEN[where](part.reset_index(drop=True)) for _, part in known.groupby("segment")]
        return np.arange(len(table)), pd.concat(parts).to_numpy(np.float32)[:, None]

    found = truncation(bars, lambda table: [recompute(table)], recompute(bars), ["hidden"], cuts=24, seed=1)
    assert list(found.measurements["changed"]) == ["hidden"]


def test_truncation_cuts_at_every_kind_of_place_in_turn():
    bars = make_segments(2_000, 2_000, gap=0)
    bars["high"] = np.where(bars.index % 50 == 0, bars["low"], bars["high"])
    found = check_truncation(
        bars,
        lambda table: compute_after_three_bars(
            table, lambda part: part["close"].where(part.index % 7 == 0).ffill().to_frame()
        ),
        ["filled"],
        cuts=14,
    )
    kinds = list(found.measurements["cut_after_ms"].values())
    assert found.severity == "ok"
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "anywhere": 2,
        "segment_end": 2,
        "segment_start": 2,
        "day_end": 2,
        "idle": 2,
        "warm_up_end": 2,
        "step": 1,  # there is one column
        "plateau": 1,
    }


@pytest.mark.parametrize(
    ("edit", "named", "row"),
    [
        (lambda rows, x: (rows, np.roll(x, -1, axis=0)), "a", 3),
        (lambda rows, x: (rows, np.where(rows[:, None] == 17, np.float32(0), x)), "a", 17),
        (lambda rows, x: (rows - 1, x), "row selection", 2),
        (lambda rows, x: (rows[1:], x[1:]), "row selection", 3),
        (lambda rows, x: (rows[:-1], x[:-1]), "row selection", 29),
        (lambda rows, x: (np.insert(rows, 5, rows[4]), np.insert(x, 5, x[4], axis=0)), "row selection", 7),
    ],
)
def test_truncation_names_the_column_that_is_not_stored_as_computed(edit, named: str, row: int):
    bars = make_segments(30)

    def recompute(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        return compute_after_three_bars(table, lambda part: part[["close"]])

    found = truncation(bars, lambda table: [recompute(table)], edit(*recompute(bars)), ["a"], cuts=4, seed=1)
    assert found.severity == "critical"
    assert found.measurements["not_reproduced"] == {named: {"row": row, "time_ms": row * BAR}}
    assert f"{named}, bar at {row * BAR} (row {row}): not reproduced from the bars" in found.message


def test_truncation_computes_once_more_than_it_cuts_and_never_more_than_all_bars():
    bars, lengths = make_segments(200), []

    def recompute(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        lengths.append(len(table))
        return np.arange(len(table)), table[["close"]].to_numpy(np.float32)

    stored = recompute(bars)
    truncation(bars, lambda table: [recompute(table)], stored, ["a"], cuts=10, seed=1)
    assert (len(lengths), max(lengths)) == (12, 200)


def test_truncation_cuts_all_symbols_at_the_same_time():
    one = make_segments(40)
    both = pd.concat([one, one.assign(symbol="B", segment=np.int32(1))], ignore_index=True)

    def recompute(bars: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        market = bars.groupby("open_time")["close"].transform("mean")
        return np.arange(len(bars)), market.to_numpy(np.float32)[:, None]

    assert check_truncation(both, recompute, ["market"], cuts=8).severity == "ok"


def test_truncation_rejects_features_without_rows_to_compare():
    bars = make_segments(30)
    with pytest.raises(ValueError, match="0 rows of float32"):
        check_truncation(bars, lambda table: (np.arange(0), np.zeros((0, 1), np.float32)), ["a"], cuts=4)


# look_ahead


def compute_causal_columns(bars: pd.DataFrame) -> pd.DataFrame:
    close, volume = bars["close"], bars["volume"]
    log = np.log(close)
    change = log.diff()
    return pd.DataFrame(
        {
            **{f"return_{n}": log.diff(n) for n in (1, 5, 60)},
            **{f"sma_{n}": np.log(close / close.rolling(n).mean()) for n in (5, 20, 200)},
            **{f"volatility_{n}": change.rolling(n).std() for n in (5, 60)},
            "size": change.abs(),
            "volume": np.log1p(volume),
            "stochastic": (close - close.rolling(14).min()) / (close.rolling(14).max() - close.rolling(14).min()),
            "autocovariance": change.rolling(20).cov(change.shift()),
            "every_hour": change.rolling(60).sum().where(bars.index % 60 == 0).ffill(),
        }
    ).fillna(0.0)


LOOKING_AHEAD = {
    "next": lambda log: log.diff().shift(-1),
    "next_five": lambda log: log.diff(5).shift(-5),
    "next_sixty": lambda log: log.diff(60).shift(-60),
    "one_future_of_sixty": lambda log: log.diff(60).shift(-1),
    "sign": lambda log: np.sign(log.diff().shift(-1)),
    "centered_3": lambda log: log.diff().rolling(3, center=True).mean(),
    "centered_21": lambda log: log.diff().rolling(21, center=True).mean(),
    "centered_median": lambda log: log.diff().rolling(5, center=True).median(),
    "distance_from_centered_5": lambda log: log - log.rolling(5, center=True).mean(),
    "distance_from_centered_61": lambda log: log - log.rolling(61, center=True).mean(),
    "back_filled_2": lambda log: log.diff(2).where(log.index % 2 == 0).bfill(),
    "back_filled_15": lambda log: log.diff(15).where(log.index % 15 == 0).bfill(),
    "noisy": lambda log: log.diff().shift(-1) * np.random.default_rng(0).lognormal(0, 0.5, len(log)),
    "centered_volatility": lambda log: log.diff().rolling(5, center=True).std(),
    "back_filled_volatility": lambda log: log.diff().rolling(15).std().where(log.index % 15 == 0).bfill(),
}
SLICES = [
    "BTCUSDT_1m_2024-01-01_90d.parquet",
    "ARBUSDT_1m_2024-01-01_90d.parquet",
    "BTCUSDT_1m_2023-03-20_8d_halt.parquet",
    "ARBUSDT_1m_2023-07-20_14d_gap.parquet",
]


def check_look_ahead(columns: pd.DataFrame, move: np.ndarray) -> Finding:
    segment = np.zeros(len(move), dtype=np.int32)
    return look_ahead(columns.to_numpy(np.float32), list(columns), move, segment, **LIMITS)


@pytest.mark.parametrize("file", SLICES)
def test_look_ahead_finds_nothing_in_causal_columns_of_a_real_market(file: str):
    bars = load_slice(file)
    assert check_look_ahead(compute_causal_columns(bars), take_moves(bars)).severity == "ok"


@pytest.mark.parametrize("file", SLICES[:2])
def test_look_ahead_finds_every_leaking_column_of_a_real_market(file: str):
    bars = load_slice(file)
    assert find_leaking(bars) == list(LOOKING_AHEAD)


def test_look_ahead_finds_every_leaking_column_of_a_random_walk_and_no_other():
    bars = simulate_walk(20_000, seed=5)
    assert find_leaking(bars) == list(LOOKING_AHEAD)
    assert check_look_ahead(compute_causal_columns(bars), take_moves(bars)).severity == "ok"


def find_leaking(bars: pd.DataFrame) -> list[str]:
    """Return the columns that the guard names when it checks each by itself."""
    columns = pd.DataFrame({name: column(np.log(bars["close"])) for name, column in LOOKING_AHEAD.items()}).fillna(0.0)
    named = [check_look_ahead(columns[[name]], take_moves(bars)) for name in columns]
    return [found.message.split(" is correlated with")[0] for found in named if found.severity == "critical"]


@pytest.mark.parametrize("persistence", [0.0, 0.5, 0.9, 0.99])
def test_look_ahead_accepts_a_causal_signal_that_predicts_a_fifth_of_the_next_moves_variance(persistence: float):
    rng = np.random.default_rng(4)
    noise = rng.normal(size=20_000) * np.sqrt(1 - persistence**2)
    signal = pd.Series(noise).ewm(alpha=1 - persistence, adjust=False).mean().to_numpy()
    signal = signal / signal.std()
    move = np.sqrt(0.2) * signal + np.sqrt(0.8) * rng.standard_t(4, 20_000) / np.sqrt(2)
    columns = pd.DataFrame({"signal": signal, "slow": pd.Series(signal).rolling(20, min_periods=1).mean()})
    assert check_look_ahead(columns, move).severity == "ok"
    assert check_look_ahead(columns.assign(leak=move), move).message.startswith(
        "leak is correlated with future returns"
    )


def test_look_ahead_compares_no_bar_with_another_segment():
    bars = simulate_walk(1_000, seed=2)
    segment = np.repeat(np.arange(10, dtype=np.int32), 100)  # none is as long as the comparison
    x = take_moves(bars)[:, None].astype(np.float32)
    found = look_ahead(x, ["next"], take_moves(bars), segment, **LIMITS)
    assert (found.severity, found.measurements) == ("warning", {"rows": 0})
    assert association.find_inner_rows(np.repeat([0, 1], [200, 130])).tolist() == [*range(64, 136), *range(264, 266)]


def test_look_ahead_is_as_strict_as_its_floor_and_ratio():
    rng = np.random.default_rng(1)
    move = rng.normal(size=5_000)
    x = (move + rng.normal(size=5_000)).astype(np.float32)[:, None]  # correlation 0.71
    segment = np.zeros(5_000, dtype=np.int32)
    severities = [
        look_ahead(x, ["a"], move, segment, floor=floor, ratio=ratio).severity
        for floor, ratio in ((0.65, 0.5), (0.75, 0.5), (0.65, 50.0))
    ]
    assert severities == ["critical", "ok", "ok"]


def test_look_ahead_reports_the_plain_correlations_of_independent_moves():
    rng = np.random.default_rng(1)
    move = rng.uniform(-1, 1, 20_000)
    x = (move + rng.uniform(-1, 1, 20_000)).astype(np.float32)[:, None]
    future, past = association.correlate_with_moves(x, move, rows=association.find_inner_rows(np.zeros(20_000)))
    wanted = [stats.pearsonr(x[:, 0], move)[0], stats.spearmanr(x[:, 0], move)[0]]
    np.testing.assert_allclose(future[[0, 2], 0], wanted, atol=0.01)
    assert past.max() < 0.05


def correlate_directly(x: np.ndarray, move: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """Return what `correlate_with_moves` does for one column and signed moves, one correlation at a time."""

    def clip(values: np.ndarray) -> np.ndarray:
        return np.clip(values, *np.quantile(values, [0.001, 0.999]))

    def take_residual(values: np.ndarray, *known: np.ndarray) -> np.ndarray:
        design = np.column_stack([np.ones(len(values)), *known])
        return values - design @ np.linalg.lstsq(design, values)[0]

    found, clipped = [], clip(move)
    changed = x[rows] != x[rows - 1]
    for there in [rows] if changed.mean() >= 0.9 else [rows, rows[changed]]:
        innovation = take_residual(x[there], x[there - 1])
        residual = clip(take_residual(x[there], x[there - 1], move[there - 1]))
        next_ones = [clipped[there + k] for k in range(64)]
        next_h = [sum(clipped[there + k] for k in range(h)) for h in 2 ** np.arange(7)]
        last_h = [sum(clipped[there - k] for k in range(1, h + 1)) for h in 2 ** np.arange(7)]
        ahead = max(abs(np.corrcoef(residual, moves)[0, 1]) for moves in next_ones + next_h)
        found.append((ahead, max(abs(np.corrcoef(clip(innovation), moves)[0, 1]) for moves in last_h)))
    return max(found)


@pytest.mark.parametrize("column", ["next_five", "centered_21", "back_filled_15", "noisy", "centered_volatility"])
def test_look_ahead_measures_the_same_as_one_correlation_at_a_time(column: str):
    bars = simulate_walk(6_000, seed=6)
    x = LOOKING_AHEAD[column](np.log(bars["close"])).fillna(0.0).to_numpy(np.float32)
    rows = association.find_inner_rows(np.repeat([0, 1, 2], [3_500, 500, 2_000]))
    future, past = association.correlate_with_moves(x[:, None], take_moves(bars), rows=rows)
    assert (future[0, 0], past[0, 0]) == pytest.approx(
        correlate_directly(x.astype(float), take_moves(bars), rows), abs=1e-4
    )
    ranks = association.correlate_with_moves(stats.rankdata(x)[:, None], stats.rankdata(take_moves(bars)), rows=rows)
    assert (future[2, 0], past[2, 0]) == pytest.approx((ranks[0][0, 0], ranks[1][0, 0]), abs=1e-4)


def test_ranks_are_those_of_scipy():
    values = np.random.default_rng(1).integers(-20, 20, 999).astype(np.float32) * np.float32(-0.0 + 0.5)
    assert np.array_equal(association.rank_values(values), stats.rankdata(values))


def test_ranks_of_float32_are_those_of_scipy_whatever_the_sign_and_size():
    sizes = np.array([0.0, 1e-45, 1e-40, 1e-38, 1.0, np.nextafter(np.float32(1), np.float32(2)), 3e38], np.float32)
    values = np.random.default_rng(1).permutation(np.concatenate([sizes, -sizes, sizes[::2]]))
    assert np.array_equal(association.rank_values(values), stats.rankdata(values))


def test_a_market_that_never_moves_is_correlated_with_nothing():
    x = np.random.default_rng(1).normal(size=(1_000, 1)).astype(np.float32)
    future, past = association.correlate_with_moves(
        x, np.full(1_000, 0.1), rows=association.find_inner_rows(np.zeros(1_000))
    )
    assert not future.any() and not past.any()


def test_a_value_that_is_not_finite_is_rejected_by_name():
    x = np.zeros((300, 2), dtype=np.float32)
    x[7, 1] = np.nan
    segment = np.zeros(300, dtype=np.int32)
    with pytest.raises(ValueError, match="b: not finite in row 7, one of 1"):
        look_ahead(x, ["a", "b"], np.zeros(300), segment, **LIMITS)
    with pytest.raises(ValueError, match="move: not finite in row 0, one of 300"):
        look_ahead(x[:, :1], ["a"], np.full(300, np.nan), segment, **LIMITS)


# target_leakage

FUNCTIONS = {
    "itself": lambda y: y,
    "negated": lambda y: -3 * y + 7,
    "exponential": lambda y: np.exp(2 * y),
    "square": lambda y: y**2,
    "sign": lambda y: np.sign(y),
    "sine": lambda y: np.sin(2 * y),
    "almost": lambda y: y + 0.1 * np.random.default_rng(3).normal(size=len(y)),
}


def check_target(x: np.ndarray, y: np.ndarray) -> Finding:
    (found,) = target_leakage(x.astype(np.float32)[:, None], ["x"], {"return_5": y}, threshold=0.95)
    return found


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("tails", [3, 30])
def test_target_leakage_finds_every_function_of_the_target(name: str, tails: int):
    y = np.random.default_rng(1).standard_t(tails, 5_000)
    found = check_target(FUNCTIONS[name](y), y)
    assert found.severity == "critical"
    assert found.message.startswith("x contains the target return_5")


def test_target_leakage_finds_a_column_that_determines_the_target():
    x = np.random.default_rng(1).normal(size=5_000)
    found = check_target(x, np.cos(3 * x))
    assert found.measurements["column_determines_target"]["x"] > 0.95
    assert found.measurements["target_determines_column"]["x"] < 0.95


@pytest.mark.parametrize("of", [lambda y: y, lambda y: y == 1, lambda y: 2 - y, lambda y: (y - 1) ** 2])
def test_target_leakage_finds_functions_of_classes(of):
    y = np.random.default_rng(1).integers(0, 3, 5_000).astype(np.int32)
    assert check_target(of(y), y).severity == "critical"


@pytest.mark.parametrize("noise", [0.5, 1.0, 100.0])
def test_target_leakage_accepts_a_forecast(noise: float):
    rng = np.random.default_rng(1)
    y = rng.normal(size=5_000)
    found = check_target(y + noise * rng.normal(size=5_000), y)
    assert found.severity == "ok"
    wanted = 1 / np.sqrt(1 + noise**2)
    assert found.measurements["pearson"]["x"] == pytest.approx(wanted, abs=0.03)


def test_target_leakage_measures_as_scipy_does():
    rng = np.random.default_rng(1)
    y = rng.normal(size=1_000)
    x = (np.round(y, 1) ** 3 + rng.normal(size=1_000)).astype(np.float32)
    found = association.measure_target_association(x[:, None], {"y": y})["y"]
    assert found["pearson"][0] == pytest.approx(stats.pearsonr(x.astype(float), y)[0])
    assert found["spearman"][0] == pytest.approx(stats.spearmanr(x, y)[0])


def test_targets_are_measured_together_as_each_alone():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(900, 3)).astype(np.float32), rng.normal(size=900).astype(np.float32)
    targets = {"value": y, "class": rng.integers(0, 3, 900).astype(np.int32), "square": x[:, 1] ** 2}
    together = association.measure_target_association(x, targets)
    for name, target in targets.items():
        alone = association.measure_target_association(x, {name: target})[name]
        assert {key: value.tolist() for key, value in together[name].items()} == {
            key: value.tolist() for key, value in alone.items()
        }


def correlate_by_bins(ranks: np.ndarray, given: np.ndarray) -> float:
    """Return the correlation ratio of ranks, given those of another variable in bins, from the groups themselves."""
    bins = len(ranks) // 20  # of 20 rows each: fewer than 100 bins
    groups = pd.Series(ranks).groupby(np.floor((given - 0.5) * bins / len(ranks)))
    within = groups.var(ddof=0) * groups.size()
    explained = 1 - within.sum() / (len(ranks) - len(groups)) / np.var(ranks, ddof=1)
    return float(np.sqrt(max(explained, 0)))


def test_correlation_ratios_are_those_of_the_groups_themselves():
    rng = np.random.default_rng(3)
    y = np.round(rng.normal(size=1_000), 1)
    x = (np.sin(y) + rng.normal(size=1_000)).astype(np.float32)
    found = association.measure_target_association(x[:, None], {"y": y})["y"]
    of_x, of_y = stats.rankdata(x), stats.rankdata(y)
    assert found["column_determines_target"][0] == pytest.approx(correlate_by_bins(of_y, of_x))
    assert found["target_determines_column"][0] == pytest.approx(correlate_by_bins(of_x, of_y))


def test_few_rows_and_many_bins_are_not_taken_for_a_function():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(300, 50)).astype(np.float32), rng.normal(size=300)
    found = association.measure_target_association(x, {"y": y})["y"]
    assert max(found["column_determines_target"].max(), found["target_determines_column"].max()) < 0.4


def test_a_constant_column_is_associated_with_nothing():
    found = association.measure_target_association(np.ones((100, 1), np.float32), {"y": np.arange(100.0)})["y"]
    assert {name: float(value[0]) for name, value in found.items()} == dict.fromkeys(found, 0.0)
