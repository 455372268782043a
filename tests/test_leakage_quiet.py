"""No guard raises a false alarm on clean data: real markets with their gaps and halts, and simulated ones."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline import labels
from pipeline.features import engine
from pipeline.leakage.features import look_ahead, take_next_moves, target_leakage, truncation
from pipeline.leakage.findings import Finding
from pipeline.leakage.fits import fit_rows
from pipeline.leakage.folds import duplicates, embargo, label_overlap, temporal_order
from pipeline.leakage.labels import label_end, label_timing
from pipeline.leakage.segments import check_window_runs, segments
from pipeline.market import bars as klines
from pipeline.market import simulated
from pipeline.samples import KEY, find_label_ends, number_runs
from pipeline.validation import folds

DATA = Path(__file__).parents[2] / "shared" / "data"
PARAMS = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))
FEATURES, TARGETS, GUARD = (
    PARAMS["datasets"]["klines"]["features"],
    PARAMS["datasets"]["klines"]["targets"],
    PARAMS["guard"],
)
SLICES = [
    "BTCUSDT_1m_2024-01-01_90d.parquet",
    "ARBUSDT_1m_2024-01-01_90d.parquet",
    "BTCUSDT_1m_2023-03-20_8d_halt.parquet",
    "ARBUSDT_1m_2023-07-20_14d_gap.parquet",
]
SCHEME = {"groups": 6, "test_groups": 2, "embargo_pct": 0.01, "holdout_pct": 0.15}


def recompute(bars: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    features = engine.compute(bars, **FEATURES)
    return features.rows, features.x


def check_features(bars: pd.DataFrame, features: engine.Features, tables: dict[str, pd.DataFrame]) -> Iterator[Finding]:
    stored, columns = (features.rows, features.x), features.columns
    yield truncation(bars, lambda table: [recompute(table)], stored, columns, cuts=24, seed=1)
    for number, (target, table) in enumerate(tables.items()):
        both, in_x, in_y = np.intersect1d(features.rows, table["row"], return_indices=True)
        x, segment = np.ascontiguousarray(features.x[in_x]), bars["segment"].to_numpy()[both]
        y, move = table["y"].to_numpy()[in_y], take_next_moves(bars, both)
        if not number:
            limits = {"ratio": GUARD["look_ahead_ratio"], "floor": GUARD["look_ahead_floor"]}
            yield look_ahead(x, columns, move, segment, **limits)
        yield from target_leakage(x, columns, {target: y}, threshold=GUARD["correlation_threshold"])


def check_labels(bars: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> Iterator[Finding]:
    for target, table in tables.items():

        def relabel(other: pd.DataFrame, target: str = target) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            again = labels.make_labels(other, TARGETS[target]).table
            return again["row"].to_numpy(), again["y"].to_numpy(), again["label_end"].to_numpy()

        yield label_end(bars, relabel, target, cuts=24, seed=1)
        yield label_timing(bars, *(table[name].to_numpy() for name in ("row", "label_end")))


def check_folds(bars: pd.DataFrame, features: engine.Features, tables: dict[str, pd.DataFrame]) -> Iterator[Finding]:
    keys = bars.iloc[features.rows][["segment", "open_time"]].set_axis(KEY, axis=1)
    end, is_labeled = find_label_ends(keys, tables.values())
    rows, end = keys[is_labeled], end[is_labeled]
    time, segment, bar_ms = rows["time"].to_numpy(), rows["segment"].to_numpy(), klines.find_interval_ms(bars)
    longest = max(features.warm_up_bars.values())
    yield segments(time, end, segment, bars=bars, bar_ms=bar_ms, warm_up_bars=longest)
    yield check_window_runs(time, segment, number_runs(segment, np.arange(len(rows))), bar_ms=bar_ms)
    cpcv = folds.cpcv(time, end, **SCHEME)
    x = features.x[is_labeled]
    yield from (temporal_order(cpcv), label_overlap(cpcv), duplicates(x, segment, cpcv), embargo(cpcv, longest))
    for split in range(cpcv.n_splits):
        train, valid = cpcv.split_validation(cpcv.train(split), PARAMS["train"]["valid_pct"])
        yield fit_rows(train, valid, cpcv.test(split), time=time, label_end=end)


def find_alarms(bars: pd.DataFrame) -> list[str]:
    """Return the critical findings of every guard of bars, features, labels and folds."""
    features = engine.compute(bars, **FEATURES)
    tables = {target: labels.make_labels(bars, block).table for target, block in TARGETS.items()}
    findings = [
        *check_features(bars, features, tables),
        *check_labels(bars, tables),
        *check_folds(bars, features, tables),
    ]
    assert len({finding.guard for finding in findings}) == 11
    return [f"{finding.guard}: {finding.message}" for finding in findings if finding.severity == "critical"]


@pytest.mark.parametrize("file", SLICES)
def test_no_guard_raises_an_alarm_on_a_real_market(file: str):
    if not DATA.is_dir():
        pytest.skip(f"{DATA.name} of the workplace is not here: real slices are not part of the repository")
    table = pd.read_parquet(DATA / file).iloc[:20_000]
    bars, _ = klines.clean(table.assign(symbol=pd.array([file[:7]] * len(table), dtype="str")))
    assert find_alarms(bars) == []


@pytest.mark.parametrize("signal", [0.0, 0.05])
@pytest.mark.parametrize("seed", range(20))
def test_no_guard_raises_an_alarm_on_a_simulated_market(seed: int, signal: float):
    symbols = ["BTCUSDT", "ETHUSDT"][: 1 + seed % 2]
    table, _ = simulated.load(
        symbols=symbols,
        interval="1m",
        start="2024-01-01",
        days=3,
        signal=signal,
        predictor="flow",
        half_life_bars=5.0,
        spread_bps=0.0,
        idle_share=0.0005,
        seed=seed,
    )
    bars, _ = klines.clean(table)
    assert find_alarms(bars) == []
