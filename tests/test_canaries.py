"""Every canary is caught by its named guard, and no clean counterpart raises a false alarm, in every market at hand."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline import artifacts, config, labels
from pipeline.features import engine
from pipeline.leakage.canaries import features, formulas, purge_rules, runner, segments
from pipeline.leakage.canaries.canary import Canary, Outcome
from pipeline.leakage.canaries.canary_market import (
    GAP_BARS,
    HALT_BARS,
    CanaryMarket,
    find_first_bars,
    make_market,
    redraw_symbol,
)
from pipeline.leakage.canaries.fold_tables import divide_rows
from pipeline.leakage.canaries.labels import BARRIER, BARRIER_BARS, label_triple_barrier
from pipeline.leakage.findings import Finding, LeakageError
from pipeline.leakage.settings import GuardSettings
from pipeline.market import bars as klines
from pipeline.market import simulated
from pipeline.stages import canary
from tests.params import PARAMS

DATA = Path(__file__).parents[2] / "shared" / "data"
BARS = 6_000  # of each symbol, at most
HALT, GAP = "BTCUSDT_1m_2023-03-20_8d_halt.parquet", "ARBUSDT_1m_2023-07-20_14d_gap.parquet"
BTC, ARB = "BTCUSDT_1m_2024-01-01_90d.parquet", "ARBUSDT_1m_2024-01-01_90d.parquet"
FIRST, BESIDE_HALT, BESIDE_GAP = slice(0, 4_800), slice(1_800, 7_800), slice(5_600, 11_600)
REAL = {
    "btc": {BTC: FIRST},
    "arb": {ARB: FIRST},
    "btc and arb": {BTC: FIRST, ARB: FIRST},
    "halt": {HALT: BESIDE_HALT},
    "gap": {GAP: BESIDE_GAP},
}
LISTED = {  # every leak that must be planted, by its usual name
    "a feature shifted by -1": "return_shifted_back",
    "a feature shifted by -h": "horizon_shifted_back",
    "a centered rolling window": "centered_rolling_mean",
    "bfill over a gap": "backward_fill_over_gap",
    "a resample labeled left": "hour_labeled_left",
    "a scaler fitted on everything": "standardized_over_file",
    "a scaler fitted on test rows": "scaler_fitted_on_test_rows",
    "a quantile fitted on everything": "quantile_rank_in_file",
    "a PCA fitted on everything": "pca_of_file",
    "a volatility fitted on everything": "volatility_of_file",
    "a target mean-encoded by hour": "target_encoded_by_hour",
    "a barrier of future volatility": "barrier_of_future_volatility",
    "the target times noise": "target_times_noise",
    "the target ranked": "target_ranked",
    "the target squared": "target_squared",
    "the target lagged wrongly": "target_lagged_wrongly",
    "a VPIN bucket size from the whole file": "vpin_bucket_of_file",
    "labels that extend over the split": "no_purge",
    "purge off by one": "purge_off_by_one",
    "purge at the outer edges only": "purge_at_outer_edges_only",
    "embargo before instead of after the test": "embargo_before_test",
    "groups divided per symbol": "groups_cut_by_symbol",
    "windows over a gap": "windows_over_gap",
    "windows over two symbols": "windows_over_two_symbols",
    "duplicated rows on both sides": "rows_copied_to_both_sides",
    "early stopping on test rows": "early_stopping_on_test_rows",
    "a threshold chosen on the holdout": "threshold_chosen_on_holdout",
    "a stack on reused out-of-sample predictions": "stacked_on_reused_predictions",
    "a model that memorizes row order": "model_memorizes_row_order",
    "the open taken for known-at, by a join": "longer_bars_joined_at_open",
}


@cache
def load_market(name: str) -> pd.DataFrame:
    """Return a clean table of bars."""
    if name not in REAL:
        block = {key: value for key, value in PARAMS["sources"]["simulated"].items() if key != "kind"} | {"days": 4}
        return klines.clean(simulated.load(**block | ({"signal": 0.0} if name == "no signal" else {}))[0])[0]
    parts = []
    for file, rows in REAL[name].items():
        if not (DATA / file).is_file():
            pytest.skip(f"{file} of the workplace is not here: real slices are not part of the repository")
        parts.append(pd.read_parquet(DATA / file).iloc[rows].assign(symbol=file.split("_")[0]))
    return klines.clean(pd.concat(parts, ignore_index=True))[0]


def compute(bars: pd.DataFrame) -> engine.Features:
    return engine.compute(bars, **PARAMS["datasets"]["klines"]["features"])


@cache
def plant_market(name: str) -> CanaryMarket:
    bars, settings = load_market(name), GuardSettings(**PARAMS["guard"])
    bars = bars.iloc[find_first_bars(bars["symbol"], bars=BARS)]
    return make_market(bars, compute, settings=settings, seed=PARAMS["seed"])


@cache
def run(name: str) -> tuple[Outcome, ...]:
    return tuple(runner.run_canaries(plant_market(name)))


@pytest.mark.parametrize("name", ["simulated", "no signal", *REAL])
def test_every_canary_is_caught_by_its_guard_and_no_clean_counterpart_raises_a_false_alarm(name: str):
    outcomes = run(name)
    assert [outcome.name for outcome in outcomes] == list(runner.NAMES)
    assert [failure for outcome in outcomes for failure in outcome.list_failures()] == []
    assert [f"{o.name}: {f.message}" for o in outcomes for f in o.clean if f.severity != "ok"] == []


def test_every_listed_leak_is_planted_and_each_name_occurs_once():
    assert set(LISTED.values()) <= set(runner.NAMES)
    assert len(runner.NAMES) == len(set(runner.NAMES)) >= 32


def test_each_canary_is_checked_by_all_guards_of_its_kind_and_no_other():
    checked = [{finding.guard for finding in side} for o in run("simulated") for side in (o.leak, o.clean)]
    assert all(guards in [set(kind.guards) for kind in runner.KINDS.values()] for guards in checked)
    assert {outcome.guard for outcome in run("simulated")} == set(runner.GUARDS)


def test_a_counterpart_that_several_canaries_share_is_checked_once(monkeypatch):
    checked = []

    def record_sides(sides, _):
        checked.append(dict(sides))
        return {name: [Finding("guard", "ok", side, {})] for name, side in sides.items()}

    canaries = tuple(
        Canary(name, "guard", f"leak {name}", clean, "", "") for name, clean in [("a", "x"), ("b", "y"), ("c", "x")]
    )
    monkeypatch.setattr(runner, "KINDS", {"letters": runner.Kind(("guard",), canaries, record_sides)})
    outcomes = list(runner.run_canaries(None))
    assert checked == [{"a": "leak a", "b": "leak b", "c": "leak c"}, {"a": "x", "b": "y"}]
    assert [outcome.leak[0].message for outcome in outcomes] == ["leak a", "leak b", "leak c"]
    assert [outcome.clean[0].message for outcome in outcomes] == ["x", "y", "x"]


# outcomes


def make_finding(guard: str, severity: str) -> Finding:
    return Finding(guard, severity, f"{guard} is {severity}", {})


def make_outcome(leak: list[Finding], clean: list[Finding]) -> Outcome:
    return Canary("lag", "truncation", None, None, "it is shifted by -1", "by +1").make_outcome(leak, clean)


def test_a_caught_canary_with_a_mere_warning_about_its_counterpart_has_no_failure():
    clean = [make_finding("truncation", "ok"), make_finding("look_ahead", "warning")]
    outcome = make_outcome([make_finding("truncation", "critical")], clean)
    assert (outcome.is_caught, outcome.is_false_alarm, outcome.list_failures()) == (True, False, [])


def test_a_catch_by_another_guard_is_a_miss_whose_message_names_the_threshold_to_change():
    leak = [make_finding("truncation", "ok"), make_finding("look_ahead", "critical")]
    (failure,) = make_outcome(leak, []).list_failures()
    assert failure == (
        "canary lag: truncation misses the leak (look_ahead catches it, which does not count); "
        "it reports ok: truncation is ok: raise guard.cuts"
    )


def test_a_guard_that_did_not_run_misses():
    (failure,) = make_outcome([], []).list_failures()
    assert "truncation misses the leak; it reports nothing" in failure


def test_a_false_alarm_is_a_failure_that_names_canary_guard_and_threshold():
    outcome = make_outcome([make_finding("truncation", "critical")], [make_finding("look_ahead", "critical")])
    (failure,) = outcome.list_failures()
    assert outcome.is_false_alarm
    assert failure.startswith(
        "canary lag: look_ahead raises a false alarm on the clean counterpart (by +1): look_ahead is critical: "
    )
    assert "raise guard.look_ahead_floor" in failure


# stage


@pytest.fixture(scope="module")
def failed(tmp_path_factory) -> tuple[Path, str]:
    """A folder where the stage ran with a threshold that no association exceeds, and the message it stopped with."""
    folder = tmp_path_factory.mktemp("failed")
    params = {**PARAMS, "canary": {"bars": BARS}, "guard": {**PARAMS["guard"], "correlation_threshold": 1.01}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "data/clean").mkdir(parents=True)
    artifacts.write_table(folder / "data/clean/klines.parquet", load_market("simulated"))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(LeakageError) as stopped:
        patch.chdir(folder)
        canary.main("klines")
    return folder, str(stopped.value)


def test_a_threshold_that_is_too_high_stops_the_pipeline_with_canary_guard_and_remedy(failed):
    failures = failed[1].splitlines()
    assert [line.split(":")[0] for line in failures] == [
        f"canary target_{form}" for form in ("times_noise", "ranked", "squared", "sign")
    ]
    assert all("target_leakage misses the leak" in line for line in failures)
    assert all(line.endswith(": lower guard.correlation_threshold") for line in failures)


def test_the_report_holds_every_finding_and_the_same_again_where_no_threshold_changed(failed):
    report = json.loads((failed[0] / "trained/reports/canary/klines.json").read_text())
    assert (report["canaries"], report["caught"], report["false_alarms"]) == (
        len(runner.NAMES),
        len(runner.NAMES) - 4,
        0,
    )
    for outcome in run("simulated"):
        for side in ("leak", "clean"):
            written = {finding["guard"]: finding for finding in report["outcomes"][outcome.name][side][::-1]}
            expected = {finding.guard: finding for finding in getattr(outcome, side)[::-1]}
            assert list(written) == list(expected)
            for guard in set(expected) - {"target_leakage"}:
                finding = expected[guard]
                assert (written[guard]["severity"], written[guard]["message"]) == (finding.severity, finding.message)


def test_the_table_marks_the_findings_of_the_report(failed):
    report = json.loads((failed[0] / "trained/reports/canary/klines.json").read_text())
    text = (failed[0] / "trained/reports/canary/klines.md").read_text()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    guards = table[0][1:-1]
    assert len(table) == 2 + len(runner.NAMES)
    for name, *cells, counterpart in table[2:]:
        outcome = report["outcomes"][name.strip("`")]
        severities = {finding["guard"]: set() for finding in outcome["leak"]}
        for finding in outcome["leak"]:
            severities[finding["guard"]].add(finding["severity"])
        for guard, cell in zip(guards, cells, strict=True):
            is_critical = "critical" in severities.get(guard, set())
            expected = "●✗"[not is_critical] if guard == outcome["guard"] else "○" if is_critical else "·"
            assert cell == (expected if guard in severities else "")
        assert counterpart == "ok"
        assert f"- {name}: {outcome['mistake']}. Clean: {outcome['correction']}." in text


def test_too_few_bars_of_every_symbol_are_refused_with_the_number_that_is_needed():
    short = load_market("simulated").iloc[:3_000]
    with pytest.raises(
        ValueError, match=r"longest unbroken run has 3000 bars; at least 4521 are needed.*raise canary\.bars"
    ):
        make_market(short, compute, settings=GuardSettings(**PARAMS["guard"]), seed=1)


@pytest.mark.parametrize("bars", [0, 2.5, "many"])
def test_a_number_of_bars_that_is_not_a_positive_integer_is_refused(bars):
    with pytest.raises(ValueError, match=r"canary\.bars is .*it must be (a whole number|above 0)"):
        config.call_with(find_first_bars, load_market("simulated")["symbol"], block={"bars": bars}, name="canary")


# market


def test_the_first_bars_of_each_symbol_are_found_wherever_they_stand():
    symbol = pd.Series(["A", "B", "B", "A", "B", "A"], dtype="str")
    assert [find_first_bars(symbol, bars=bars).tolist() for bars in (1, 2, 9)] == [[0, 1], [0, 1, 2, 3], list(range(6))]


def test_the_market_is_clean_and_has_two_symbols_each_with_a_gap_after_a_halt():
    bars = plant_market("simulated").bars
    assert klines.find_failed_checks(bars.drop(columns="segment")) == []
    assert (klines.number_segments(bars) == bars["segment"]).all()
    assert [gap["missing_bars"] for gap in klines.find_gaps(bars)] == [GAP_BARS] * 2
    assert bars["symbol"].unique().tolist() == ["BTCUSDT", "BTCUSDT_REDRAWN"]
    last = bars.groupby("segment").tail(HALT_BARS)
    assert (last[klines.AMOUNTS] == 0).all(axis=None)
    assert (last.groupby("segment")[klines.PRICES].nunique() == 1).all(axis=None)


def test_two_symbols_of_a_dataset_stay_as_they_are():
    assert plant_market("btc and arb").bars["symbol"].unique().tolist() == ["ARBUSDT", "BTCUSDT"]


def test_a_redrawn_symbol_consists_of_the_bars_that_it_is_drawn_from():
    part = load_market("simulated").drop(columns="segment")
    other = redraw_symbol(part, rng=np.random.default_rng(1))
    assert (other["open_time"] == part["open_time"]).all()
    gap = np.log(part["open"] / part["close"].shift()).iloc[1:].round(9)
    assert set(np.log(other["open"] / other["close"].shift()).iloc[1:].round(9)) <= set(gap) | {0.0, -0.0}
    for name in ("high", "low", "close"):
        shape = np.log(part[name] / part["open"]).round(9)
        assert set(np.log(other[name] / other["open"]).round(9)) <= set(shape)
    assert other["close"].corr(part["close"]) < 0.99


# leaks and clean counterparts


def test_longer_bars_are_known_when_they_close_or_by_mistake_when_they_open():
    bars = pd.DataFrame({"clock": range(10, 20), "open": 1.0, "close": np.exp(np.arange(1.0, 11.0))})
    join = {"length": 5, "value": "body"}
    closed = formulas.join_resampled(bars, **join, at="closes", direction="backward")
    opened = formulas.join_resampled(bars, **join, at="opens", direction="backward")
    nearest = formulas.join_resampled(bars, **join, at="closes", direction="nearest")
    assert closed.tolist()[4:] == pytest.approx([5, 5, 5, 5, 5, 10])
    assert closed[:4].isna().all()
    assert opened.tolist() == pytest.approx([5] * 5 + [10] * 5)
    assert nearest.tolist() == pytest.approx([5] * 7 + [10] * 3)


def test_the_hour_is_encoded_by_the_labels_that_have_ended():
    bars = load_market("simulated").iloc[:3_000]
    bars = bars.assign(clock=bars["open_time"] // 60_000)
    ahead = np.log(bars["close"].shift(-5) / bars["close"]).to_numpy()
    hour = pd.to_datetime(bars["open_time"], unit="ms").dt.hour.to_numpy()
    so_far = formulas.encode_hour_so_far(bars)
    for row in (4, 5, 63, 1_441, 2_999):
        known = [ahead[i] for i in range(row - 4) if hour[i] == hour[row]]
        assert so_far[row] == pytest.approx(np.mean(known) if known else np.nan, nan_ok=True)
    assert formulas.encode_hour(bars)[70] == pytest.approx(np.nanmean(ahead[hour == 1]))


def test_vpin_is_the_imbalance_of_the_last_full_buckets():
    signed = np.tile([2.0, -2.0, 4.0, 4.0, 1.0, 1.0], 30)  # bars of 4; a bucket is filled by two
    bars = pd.DataFrame({"volume": 4.0, "taker_buy_base": (4.0 + signed) / 2})
    found = formulas.vpin(bars, size=8.0)
    # bar 0 stands alone, then two share a bucket: -2 + 4, 4 + 1, 1 + 2 and so on
    imbalance = np.abs([signed[0], *(signed[i] + signed[i + 1] for i in range(1, 179, 2))])
    volume = np.array([4.0, *[8.0] * 89])
    assert found[:99].isna().all()
    for row in (99, 101, 102, 179):
        full = (row + 1) // 2  # buckets before the one that the bar is in
        last = slice(full - 50, full)
        assert found[row] == pytest.approx(imbalance[last].sum() / volume[last].sum())


def test_the_clean_triple_barrier_is_that_of_the_pipeline():
    bars = plant_market("simulated").bars
    table = labels.triple_barrier(bars, horizon=BARRIER_BARS, profit=BARRIER, stop=BARRIER, volatility_window=60).table
    found = label_triple_barrier(bars, uses_future_volatility=False)
    assert found.positions.tolist() == table["row"].tolist()
    assert found.label_end_ms.tolist() == table["label_end"].tolist()
    assert found.y.tolist() == table["y"].tolist()


def test_the_correct_purge_and_embargo_leave_the_train_rows_of_the_pipeline():
    folds = divide_rows(plant_market("simulated"), method="cpcv")
    for split in range(folds.n_splits):
        tested = folds.find_test_ranges(split)
        left = ~purge_rules.mark_tested(folds, tested) & ~purge_rules.purge_and_embargo(folds, tested)
        assert np.intersect1d(np.flatnonzero(left), folds.development()).tolist() == folds.train(split).tolist()


def test_filling_a_gap_adds_its_rows_and_one_segment_for_each_symbol():
    market = plant_market("simulated")
    clean, filled = segments.split_at_gaps(market), segments.fill_gaps(market)
    assert len(np.unique(clean.segment)) == 4
    assert len(np.unique(filled.segment)) == len(np.unique(filled.run)) == 2
    between = market.warm_up_bars + GAP_BARS + 5  # the second warm-up, the gap, and the last labels
    assert len(filled.time) - len(clean.time) == 2 * between


def test_a_leaking_formula_and_its_clean_counterpart_differ():
    market = plant_market("simulated")
    for planted in features.CANARIES:
        leak, clean = planted.leak(market).values, planted.clean(market).values
        assert len(leak) == len(clean) == len(market.bars)
        assert not np.array_equal(leak, clean, equal_nan=True), planted.name
