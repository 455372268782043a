"""Every canary is caught by the guard that is named for it, and no twin is accused, in every market at hand."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline import bars as klines
from pipeline import labels
from pipeline.canaries import catalogue, divided, features, formulas, segments
from pipeline.canaries.canary import Canary, Outcome
from pipeline.canaries.folds import folds_of
from pipeline.canaries.ground import HALT_BARS, HOLE_BARS, Ground, first_bars, prepared, redrawn
from pipeline.canaries.labels import BARRIER, BARRIER_BARS, barrier
from pipeline.features import engine
from pipeline.leakage.findings import Finding, LeakageError
from pipeline.sources import simulated
from pipeline.stages import canary

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
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
LISTED = {  # every leak that a catalogue has to hold, by what people say
    "a feature shifted by -1": "return_shifted_back",
    "a feature shifted by -h": "horizon_shifted_back",
    "a centred rolling window": "centred_rolling_mean",
    "bfill over a hole": "backward_fill_over_hole",
    "a resample labelled left": "hour_labelled_left",
    "a scaler fitted on everything": "standardised_over_file",
    "a scaler fitted on test rows": "scaler_fitted_on_test_rows",
    "a quantile fitted on everything": "quantile_rank_in_file",
    "a PCA fitted on everything": "pca_of_file",
    "a volatility fitted on everything": "volatility_of_file",
    "a target mean-encoded by hour": "target_encoded_by_hour",
    "a barrier of the future's volatility": "barrier_of_future_volatility",
    "the target times noise": "target_times_noise",
    "the target ranked": "target_ranked",
    "the target squared": "target_squared",
    "the target lagged wrongly": "target_lagged_wrongly",
    "a VPIN bucket size from the whole file": "vpin_bucket_of_file",
    "labels that reach over the split": "no_purge",
    "purge off by one": "purge_off_by_one",
    "purge at the outer edges only": "purge_at_outer_edges_only",
    "embargo before instead of after the test": "embargo_before_test",
    "groups cut per symbol": "groups_cut_by_symbol",
    "windows over a hole": "windows_over_hole",
    "windows over two symbols": "windows_over_two_symbols",
    "duplicated rows on both sides": "rows_copied_to_both_sides",
    "early stopping on test rows": "early_stopping_on_test_rows",
    "a threshold chosen on the holdout": "threshold_chosen_on_holdout",
    "a model that memorises row order": "model_memorises_row_order",
    "the open taken for known-at, by a position": "open_taken_for_known_at",
    "the open taken for known-at, by a join": "longer_bars_joined_at_open",
}


@cache
def market(name: str) -> pd.DataFrame:
    """A clean table of bars."""
    if name not in REAL:
        block = {key: value for key, value in PARAMS["sources"]["simulated"].items() if key != "kind"} | {"days": 4}
        return klines.clean(simulated.load(**block | ({"signal": 0.0} if name == "no signal" else {})))[0]
    parts = []
    for file, rows in REAL[name].items():
        if not (DATA / file).is_file():
            pytest.skip(f"{file} of the workplace is not here: real slices are not part of the repository")
        parts.append(pd.read_parquet(DATA / file).iloc[rows].assign(symbol=file.split("_")[0]))
    return klines.clean(pd.concat(parts, ignore_index=True))[0]


def compute(bars: pd.DataFrame) -> engine.Features:
    return engine.compute(bars, **PARAMS["datasets"]["klines"]["features"])


@cache
def ground(name: str) -> Ground:
    return prepared(first_bars(market(name), bars=BARS), compute, PARAMS["seed"], **PARAMS["guard"])


@cache
def outcomes(name: str) -> tuple[Outcome, ...]:
    return tuple(catalogue.questioned(ground(name)))


@pytest.mark.parametrize("name", ["simulated", "no signal", *REAL])
def test_every_canary_is_caught_by_its_guard_and_every_twin_is_quiet(name: str):
    found = outcomes(name)
    assert [outcome.name for outcome in found] == list(catalogue.NAMES)
    assert [complaint for outcome in found for complaint in outcome.complaints()] == []
    assert [f"{o.name}: {f.message}" for o in found for f in o.twin if f.severity != "ok"] == []


def test_the_catalogue_holds_every_leak_that_is_listed_and_each_name_once():
    assert set(LISTED.values()) <= set(catalogue.NAMES)
    assert len(catalogue.NAMES) == len(set(catalogue.NAMES)) >= 32


def test_each_canary_is_asked_by_all_guards_of_its_kind_and_no_other():
    asked = [{finding.guard for finding in side} for o in outcomes("simulated") for side in (o.leak, o.twin)]
    assert all(guards in [set(kind) for kind in catalogue.GUARDS.values()] for guards in asked)
    named = {outcome.guard for outcome in outcomes("simulated")}
    assert named == {guard for kind in catalogue.GUARDS.values() for guard in kind}


# outcomes


def said(guard: str, severity: str) -> Finding:
    return Finding(guard, severity, f"{guard} says {severity}", {})


def outcome(leak: list[Finding], twin: list[Finding]) -> Outcome:
    return Canary("lag", "truncation", None, None, "it is shifted by -1", "by +1").outcome(leak, twin)


def test_a_canary_that_its_guard_catches_and_whose_twin_is_only_warned_of_is_fine():
    found = outcome([said("truncation", "critical")], [said("truncation", "ok"), said("look_ahead", "warning")])
    assert (found.caught, found.complaints()) == (True, [])


def test_a_catch_under_another_name_is_a_miss_and_says_so_with_the_threshold_to_change():
    (complaint,) = outcome([said("truncation", "ok"), said("look_ahead", "critical")], []).complaints()
    assert complaint == (
        "canary lag: truncation does not catch it (look_ahead does, which does not count); "
        "it says ok: truncation says ok: raise guard.cuts"
    )


def test_a_guard_that_was_not_asked_misses():
    (complaint,) = outcome([], []).complaints()
    assert "truncation does not catch it; it says nothing" in complaint


def test_a_twin_that_a_guard_accuses_is_a_complaint_that_names_both_and_the_threshold():
    (complaint,) = outcome([said("truncation", "critical")], [said("look_ahead", "critical")]).complaints()
    assert complaint.startswith("canary lag: look_ahead accuses its clean twin (by +1): look_ahead says critical: ")
    assert "raise guard.look_ahead_floor" in complaint


# stage


@pytest.fixture(scope="module")
def asleep(tmp_path_factory) -> tuple[Path, str]:
    """A workspace where the stage has run with a threshold that no association is above, and what it stopped with."""
    folder = tmp_path_factory.mktemp("asleep")
    params = {**PARAMS, "canary": {"bars": BARS}, "guard": {**PARAMS["guard"], "correlation_threshold": 1.01}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "data/clean").mkdir(parents=True)
    market("simulated").to_parquet(folder / "data/clean/klines.parquet")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(LeakageError) as stopped:
        patch.chdir(folder)
        canary.main("klines")
    return folder, str(stopped.value)


def test_a_sleeping_threshold_stops_the_line_naming_canary_guard_and_remedy(asleep):
    complaints = asleep[1].splitlines()
    assert [line.split(":")[0] for line in complaints] == [
        f"canary target_{what}" for what in ("times_noise", "ranked", "squared", "sign")
    ]
    assert all("feature_target does not catch it" in line for line in complaints)
    assert all(line.endswith(": lower guard.correlation_threshold") for line in complaints)


def test_the_report_holds_every_finding_and_the_same_again_where_no_threshold_changed(asleep):
    report = json.loads((asleep[0] / "trained/reports/canary/klines.json").read_text())
    assert (report["canaries"], report["caught"], report["twins_accused"]) == (
        len(catalogue.NAMES),
        len(catalogue.NAMES) - 4,
        0,
    )
    for found in outcomes("simulated"):
        for side in ("leak", "twin"):
            written = {finding["guard"]: finding for finding in report["outcomes"][found.name][side][::-1]}
            wanted = {finding.guard: finding for finding in getattr(found, side)[::-1]}
            assert list(written) == list(wanted)
            for guard in set(wanted) - {"feature_target"}:
                finding = wanted[guard]
                assert (written[guard]["severity"], written[guard]["message"]) == (finding.severity, finding.message)


def test_the_table_marks_what_the_report_says(asleep):
    report = json.loads((asleep[0] / "trained/reports/canary/klines.json").read_text())
    text = (asleep[0] / "trained/reports/canary/klines.md").read_text()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    guards = table[0][1:-1]
    assert len(table) == 2 + len(catalogue.NAMES)
    for name, *cells, twin in table[2:]:
        found = report["outcomes"][name.strip("`")]
        severities = {finding["guard"]: set() for finding in found["leak"]}
        for finding in found["leak"]:
            severities[finding["guard"]].add(finding["severity"])
        for guard, cell in zip(guards, cells, strict=True):
            is_critical = "critical" in severities.get(guard, set())
            wanted = "●✗"[not is_critical] if guard == found["guard"] else "○" if is_critical else "·"
            assert cell == (wanted if guard in severities else "")
        assert twin == "quiet"
        assert f"- {name}: {found['mistake']}. Clean: {found['instead']}." in text


def test_bars_that_no_symbol_has_enough_of_are_refused_with_what_is_wanted():
    short = first_bars(market("simulated"), bars=3_000)
    with pytest.raises(
        ValueError, match=r"longest unbroken stretch has 3000 bars; 4521 are wanted.*raise canary\.bars"
    ):
        prepared(short, compute, 1, **PARAMS["guard"])


@pytest.mark.parametrize("bars", [0, 2.5, "many"])
def test_a_number_of_bars_that_is_none_is_refused(bars):
    with pytest.raises(ValueError, match=r"canary\.bars is .*whole number"):
        first_bars(market("simulated"), bars=bars)


# ground


def test_the_ground_is_clean_and_has_two_symbols_each_with_a_hole_after_a_halt():
    bars = ground("simulated").bars
    assert klines.findings(bars.drop(columns="segment")) == []
    assert (klines.segments(bars) == bars["segment"]).all()
    assert [hole["missing_bars"] for hole in klines.holes(bars)] == [HOLE_BARS] * 2
    assert bars["symbol"].unique().tolist() == ["BTCUSDT", "BTCUSDT_REDRAWN"]
    last = bars.groupby("segment").tail(HALT_BARS)
    assert (last[klines.AMOUNTS] == 0).all(axis=None)
    assert (last.groupby("segment")[klines.PRICES].nunique() == 1).all(axis=None)


def test_two_symbols_of_a_dataset_stay_what_they_are():
    assert ground("btc and arb").bars["symbol"].unique().tolist() == ["ARBUSDT", "BTCUSDT"]


def test_a_redrawn_symbol_is_made_of_the_bars_that_it_is_drawn_from():
    part = market("simulated").drop(columns="segment")
    other = redrawn(part, rng=np.random.default_rng(1))
    assert (other["open_time"] == part["open_time"]).all()
    gap = np.log(part["open"] / part["close"].shift()).iloc[1:].round(9)
    assert set(np.log(other["open"] / other["close"].shift()).iloc[1:].round(9)) <= set(gap) | {0.0, -0.0}
    for name in ("high", "low", "close"):
        shape = np.log(part[name] / part["open"]).round(9)
        assert set(np.log(other[name] / other["open"]).round(9)) <= set(shape)
    assert other["close"].corr(part["close"]) < 0.99


# leaks and twins are what they say


def test_the_longer_bars_are_known_when_they_close_or_by_mistake_when_they_open():
    bars = pd.DataFrame({"clock": range(10, 20), "open": 1.0, "close": np.exp(np.arange(1.0, 11.0))})
    join = {"length": 5, "value": "body"}
    closed = formulas.joined(bars, **join, at="closes", direction="backward")
    opened = formulas.joined(bars, **join, at="opens", direction="backward")
    assert closed.tolist()[4:] == pytest.approx([5, 5, 5, 5, 5, 10])
    assert closed[:4].isna().all()
    assert opened.tolist() == pytest.approx([5] * 5 + [10] * 5)
    assert formulas.joined(bars, **join, at="closes", direction="nearest").tolist() == pytest.approx([5] * 7 + [10] * 3)


def test_the_hour_is_encoded_by_the_labels_that_had_ended():
    bars = market("simulated").iloc[:3_000]
    bars = bars.assign(clock=bars["open_time"] // 60_000)
    ahead = np.log(bars["close"].shift(-5) / bars["close"]).to_numpy()
    hour = pd.to_datetime(bars["open_time"], unit="ms").dt.hour.to_numpy()
    so_far = formulas.encoded_by_hour_so_far(bars)
    for row in (4, 5, 63, 1_441, 2_999):
        known = [ahead[i] for i in range(row - 4) if hour[i] == hour[row]]
        assert so_far[row] == pytest.approx(np.mean(known) if known else np.nan, nan_ok=True)
    assert formulas.encoded_by_hour(bars)[70] == pytest.approx(np.nanmean(ahead[hour == 1]))


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


def test_the_honest_barrier_is_the_pipelines():
    bars = ground("simulated").bars
    table = labels.triple_barrier(bars, horizon=BARRIER_BARS, profit=BARRIER, stop=BARRIER, volatility_window=60).table
    found = barrier(bars, of_the_future=False)
    assert found.positions.tolist() == table["row"].tolist()
    assert found.label_end_ms.tolist() == table["label_end"].tolist()
    assert found.y.tolist() == table["y"].tolist()


def test_what_should_be_dropped_is_what_the_pipeline_drops():
    folds = folds_of(ground("simulated"), method="cpcv")
    for split in range(folds.n_splits):
        runs = folds.test_runs(split)
        left = ~divided.tested(folds, runs) & ~divided.as_should_be(folds, runs)
        assert np.intersect1d(np.flatnonzero(left), folds.development()).tolist() == folds.train(split).tolist()


def test_filling_a_hole_adds_its_rows_and_one_segment_for_each_symbol():
    honest, filled = segments.cut_at_holes(ground("simulated")), segments.filled_over_hole(ground("simulated"))
    assert len(np.unique(honest.segment)) == 4
    assert len(np.unique(filled.segment)) == len(np.unique(filled.run)) == 2
    between = ground("simulated").warm_up_bars + HOLE_BARS + 5  # the second warm-up, the hole, and the last labels
    assert len(filled.time) - len(honest.time) == 2 * between


def test_a_formula_and_its_twin_differ():
    bars = ground("simulated").bars
    for canary_ in features.CANARIES:
        leak, twin = canary_.leak(ground("simulated")).written, canary_.twin(ground("simulated")).written
        assert len(leak) == len(twin) == len(bars)
        assert not np.array_equal(leak, twin, equal_nan=True), canary_.name
