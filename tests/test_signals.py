"""Signals: correlations of features with targets, their errors and stability, on development rows alone."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats
from scipy.signal import lfilter

from pipeline import artifacts, config
from pipeline.evaluation import correlations
from pipeline.evaluation.bootstrap import estimate_dependence
from pipeline.evaluation.gates import Gates, describe_gate, judge_gates
from pipeline.evaluation.signals import Association, measure_signals
from pipeline.reporting.signal_plots import SignalPanel, plot_signals
from pipeline.samples import LABELS
from pipeline.stages import signals as stage
from pipeline.targets import Target
from pipeline.validation.folds import cpcv
from tests.data import BAR_MS, OUTPUTS

ROOT = Path(__file__).parents[1]
BLOCK = {
    "signal_ic": 0.05,
    "signal_correlation": 0.1,
    "signal_turnover": 0.2,
    "signal_p_value": 0.05,
    "stationarity": 0.5,
    "seeds": 3,
}
GATES = Gates(**BLOCK)


def measure(x, y, *, time=None, segment=None, group=None):
    """The signal of each column of x, for one target."""
    x = np.column_stack([np.asarray(column, np.float32) for column in x])
    n = len(x)
    found = measure_signals(
        x,
        {"y": np.asarray(y)},
        columns=[f"x{i}" for i in range(x.shape[1])],
        time=np.arange(n) if time is None else np.asarray(time),
        segment=np.zeros(n, int) if segment is None else np.asarray(segment),
        group=np.arange(n) * 4 // n if group is None else np.asarray(group),
    )
    return list(found["y"].values())


def simulate_autoregression(phi, *, bars, rng):
    return lfilter([1.0], [1.0, -phi], rng.normal(size=bars + 1000))[1000:]


X = np.array([1.0, 2.0, 2.0, 5.0, 3.0, 8.0, 4.0, 4.0, 9.0, 7.0, 6.0, 2.0])
Y = np.array([0.0, 1.0, 0.0, 2.0, 2.0, 2.0, 0.0, 1.0, 2.0, 1.0, 2.0, 1.0])  # class codes, with ties


def test_correlations_are_those_of_scipy_over_all_rows_and_in_each_group():
    (signal,) = measure([X], Y.astype(np.int32), group=[0] * 7 + [1] * 5)
    for association, reference in ((signal.ic, stats.pearsonr), (signal.rank_ic, stats.spearmanr)):
        assert association.value == pytest.approx(reference(X, Y).statistic, rel=1e-12)
        groups = [reference(X[part], Y[part]).statistic for part in (slice(7), slice(7, None))]
        assert association.groups == pytest.approx(groups, rel=1e-12)
        assert association.mean == pytest.approx(np.mean(groups))
        assert association.std == pytest.approx(np.std(groups, ddof=1))
        assert association.information_ratio == pytest.approx(np.mean(groups) / np.std(groups, ddof=1))


def test_the_sign_share_counts_the_groups_that_agree_with_the_whole():
    assert Association(-0.1, groups=(-0.2, 0.1, -0.3, np.nan)).sign_share == pytest.approx(2 / 3)


def test_ranks_are_those_of_pandas():
    expected = pd.Series(X).rank() - 0.5
    assert correlations.rank_rows(X).middle * len(X) == pytest.approx(expected.to_numpy())


def test_autocorrelation_is_that_of_pandas_within_segments():
    segment = np.repeat([0, 1], [5, 7])
    before = pd.Series(X).groupby(segment).shift()
    (signal,) = measure([X], Y, segment=segment)
    assert signal.behavior.autocorrelation == pytest.approx(pd.Series(X).corr(before), rel=1e-9)
    assert signal.behavior.autocorrelation != pytest.approx(pd.Series(X).autocorr())


def test_turnover_is_the_mean_change_of_the_clipped_standard_score():
    """The score of ±3 is ±1.86, clipped to ±1; that of ±1 is ±0.62."""
    x = np.array([3.0, 1.0, -1.0, -3.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    score = x / x.std()
    assert score[:2] == pytest.approx([3 / 2.6**0.5, 1 / 2.6**0.5])
    (signal,) = measure([x], Y[:10], segment=[0] * 4 + [1] * 6)
    changes = [1 - score[1], 2 * score[1], 1 - score[1], *[2 * score[1]] * 5]
    assert signal.behavior.turnover == pytest.approx(np.mean(changes))


def test_turnover_of_a_normal_feature_grows_with_the_root_of_one_less_its_autocorrelation():
    """Qian, Sorensen & Hua 2007; the constant 2/√π is that of a score without limits, which clipping lowers."""
    rng, ratios = np.random.default_rng(0), []
    for phi in (0.5, 0.9, 0.99):
        (signal,) = measure([simulate_autoregression(phi, bars=100_000, rng=rng)], rng.normal(size=100_000))
        ratios.append(signal.behavior.turnover / (2 / np.sqrt(np.pi) * np.sqrt(1 - phi)))
    assert 0.6 < min(ratios) <= max(ratios) < 0.8
    assert ratios[1:] == pytest.approx(ratios[:1] * 2, rel=0.1)


def test_a_value_repeats_the_one_before_within_the_resolution_of_float32():
    """At 40,000 float32 steps by 0.0039; one such step is no change, and a change across segments does not count."""
    step = float(np.spacing(np.float32(40_000)))
    x = 40_000 + step * np.array([0, 1, 1, 500, 500, 900, 900, 1500, 1800, 1800, 2500, 2500])
    (signal,) = measure([x], Y, segment=np.repeat([0, 1], [6, 6]))
    pairs = [True, True, False, True, False] + [False, False, True, False, True]  # by segment
    assert signal.behavior.constant_share == pytest.approx(np.mean(pairs))


def test_a_small_change_around_zero_is_judged_by_the_standard_deviation():
    x = np.array([0.0, 1e-9, -1e-9, 1.0, -1.0, 0.5, 1e-9, 0.0, 0.7, -0.3, 0.2, 0.1])
    (signal,) = measure([x], Y)
    assert signal.behavior.constant_share == pytest.approx(3 / 11)


def test_a_constant_feature_has_no_correlation_and_says_why():
    wobble = 40_000 + np.tile([0.0, float(np.spacing(np.float32(40_000)))], 50)
    rng = np.random.default_rng(1)
    constant, nearly, usual = measure([np.full(100, 3.0), wobble, rng.normal(size=100)], rng.normal(size=100))
    for signal in (constant, nearly):
        row = signal.tabulate()
        assert np.isnan(
            [row[name] for name in ("ic", "rank_ic", "ic_error", "ic_mean", "autocorrelation", "turnover")]
        ).all()
        assert row["constant_share"] == 1.0
        assert row["undefined"]["ic"] == row["undefined"]["turnover"] == "the feature never varies"
    assert usual.reasons == {}
    assert usual.ic.p_adjusted == pytest.approx(usual.ic.p_value)  # undefined p-values are no tests


def test_a_label_that_never_varies_has_no_correlation_and_says_why():
    (signal,) = measure([X], np.ones(12, np.int32))
    assert signal.reasons["ic"] == "y never varies"
    assert np.isfinite(signal.behavior.turnover)


def test_a_group_where_the_feature_is_constant_is_named_and_left_out_of_the_mean():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=400), rng.normal(size=400)
    x[100:200] = 1.0
    (signal,) = measure([x], y)
    assert np.isnan(signal.ic.groups[1])
    assert signal.ic.mean == pytest.approx(np.nanmean(signal.ic.groups))
    assert "in groups 1" in signal.reasons["ic_groups"]


def test_few_rows_have_a_correlation_but_no_error():
    (signal,) = measure([X], Y)
    assert np.isfinite(signal.ic.value)
    assert np.isnan([signal.ic.error, signal.ic.p_value, signal.ic.p_adjusted, signal.rank_ic.error]).all()
    assert signal.reasons["ic_error"] == "fewer than 30 independent rows"


def test_rows_without_a_neighbor_have_no_autocorrelation_and_say_why():
    (signal,) = measure([X], Y, segment=np.arange(12))
    assert np.isnan(list(vars(signal.behavior).values())).all()
    assert {signal.reasons[name] for name in vars(signal.behavior)} == {"too few rows follow another"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="row 3 is not finite"):
        measure([np.where(np.arange(12) == 3, value, X)], Y)


@pytest.mark.parametrize("reference", [stats.pearsonr, stats.spearmanr])
def test_influences_are_those_of_leaving_out_one_row(reference):
    """The jackknife's, with ties and a strong dependence, in which a row also moves the ranks of others."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=300).round(1)
    y = np.round(0.6 * x + rng.normal(size=300) * (1 + np.abs(x)))
    a, b, value = correlations.describe(x), correlations.describe(y), reference(x, y).statistic
    find = correlations.find_influence if reference is stats.pearsonr else correlations.find_rank_influence
    influence = find(a, b, value)
    left_out = np.array([reference(np.delete(x, i), np.delete(y, i)).statistic for i in range(300)])
    jackknife = 299 * (value - left_out)
    assert influence - influence.mean() == pytest.approx(jackknife - jackknife.mean(), abs=0.25)
    assert np.corrcoef(influence, jackknife)[0, 1] > 0.9999


def test_the_error_of_independent_normal_rows_is_that_of_the_textbook():
    rng = np.random.default_rng(4)
    x = rng.normal(size=20_000)
    (signal,) = measure([x], 0.5 * x + rng.normal(size=20_000))
    assert signal.ic.error == pytest.approx((1 - signal.ic.value**2) / np.sqrt(20_000), rel=0.1)
    assert signal.ic.independent_rows == pytest.approx(20_000, rel=0.2)
    assert signal.ic.p_value < 1e-12


def test_overlapping_labels_and_a_slow_feature_have_fewer_independent_rows():
    """Products of x with sums of 5 moves have the autocorrelation φ^l (1 − l/5) at lags l < 5."""
    rng, bars, phi = np.random.default_rng(5), 50_000, 0.95
    y = np.convolve(rng.normal(size=bars + 4), np.ones(5), "valid")
    (signal,) = measure([simulate_autoregression(phi, bars=bars, rng=rng)], y)
    lag = np.arange(1, 5)
    assert bars / signal.ic.independent_rows == pytest.approx(1 + 2 * (phi**lag * (1 - lag / 5)).sum(), rel=0.15)


def test_two_symbols_that_move_as_one_are_no_more_evidence_than_one():
    rng = np.random.default_rng(6)
    x, y = simulate_autoregression(0.5, bars=3000, rng=rng), rng.normal(size=3000)
    (one,) = measure([x], y)
    (two,) = measure(
        [np.tile(x, 2)],
        np.tile(y, 2),
        time=np.tile(np.arange(3000), 2),
        segment=np.repeat([0, 1], 3000),
        group=np.tile(np.arange(3000) * 4 // 3000, 2),
    )
    assert two.ic.value == pytest.approx(one.ic.value)
    assert two.ic.error == pytest.approx(one.ic.error, rel=1e-6)
    assert two.ic.groups == pytest.approx(one.ic.groups)
    assert two.behavior.autocorrelation == pytest.approx(one.behavior.autocorrelation)


def test_two_independent_symbols_are_twice_the_evidence():
    rng = np.random.default_rng(7)
    x, y, time = rng.normal(size=6000), rng.normal(size=6000), np.tile(np.arange(3000), 2)
    (signal,) = measure([x], y, time=time, segment=np.repeat([0, 1], 3000))
    assert signal.ic.error == pytest.approx(1 / np.sqrt(6000), rel=0.15)


def test_negative_dependence_is_not_taken_as_more_than_independent_rows():
    influence = np.tile([1.0, -1.0], 500) + np.random.default_rng(8).normal(size=1000) / 10
    assert estimate_dependence(influence).variance < influence.var()
    error, rows = correlations.estimate_error(influence, np.arange(1000))
    assert rows == pytest.approx(1000)
    assert error == pytest.approx(influence.std() / np.sqrt(1000))


def test_an_exact_relation_has_no_error():
    x = np.random.default_rng(9).normal(size=100).astype(np.float32)
    (signal,) = measure([x], 2.0 * x)
    assert (signal.ic.value, signal.ic.error, signal.ic.p_value) == (pytest.approx(1.0), 0.0, 0.0)


def test_five_percent_of_features_without_information_are_significant_at_five_percent():
    """Features of several speeds, labels that overlap by 5 bars, heavy tails; 600 tests in 60 worlds."""
    rng, bars, rejected = np.random.default_rng(10), 4000, []
    for _ in range(60):
        y = np.convolve(rng.standard_t(4, size=bars + 4), np.ones(5), "valid")
        speeds = (0.0, 0.5, 0.8, 0.9, 0.95) * 2
        found = measure([simulate_autoregression(phi, bars=bars, rng=rng) for phi in speeds], y)
        rejected += [(signal.ic.p_value < 0.05, signal.rank_ic.p_value < 0.05) for signal in found]
    assert np.mean(rejected, axis=0) == pytest.approx([0.05, 0.05], abs=0.025)


def test_p_values_are_adjusted_for_all_features_of_a_target():
    rng = np.random.default_rng(11)
    y = rng.normal(size=2000)
    found = measure([rng.normal(size=2000) + 0.08 * y, *rng.normal(size=(9, 2000))], y)
    p = [signal.ic.p_value for signal in found]
    assert found[0].ic.p_adjusted == pytest.approx(10 * p[0])
    assert found[int(np.argmax(p))].ic.p_adjusted <= 1.0


def test_gates_hold_beyond_their_limit_and_undefined_values_pass_none():
    results = judge_gates({"signal_ic": 0.05, "signal_turnover": 0.1, "signal_correlation": np.nan}, GATES)
    assert {name: result.passes for name, result in results.items()} == {
        "signal_ic": False,
        "signal_turnover": True,
        "signal_correlation": None,
    }
    assert describe_gate("signal_turnover", GATES) == "signal_turnover < 0.2"
    with pytest.raises(ValueError, match="there is no gate signal_beta; there are signal_ic, "):
        judge_gates({"signal_beta": 1.0}, GATES)


def test_the_section_of_gates_is_that_of_params():
    block = yaml.safe_load((ROOT / "params.yaml").read_text())["gates"]
    assert list(block) == [each.name for each in fields(Gates)]
    config.call_with(Gates, block=block, name="gates")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"signal_ic": 1.5}, "params.yaml: gates.signal_ic is 1.5; it must be below 1"),
        ({"signal_turnover": "low"}, "params.yaml: gates.signal_turnover is 'low'; it must be a number"),
        ({"signal_beta": 0.1}, "params.yaml: gates: unknown key 'signal_beta'; its keys are signal_ic, "),
    ],
)
def test_a_wrong_gate_is_named(change, words):
    with pytest.raises(config.ParamsError, match=words.replace(".", r"\.")):
        config.call_with(Gates, block=BLOCK | change, name="gates")


def write_dataset(*, rows=1200, constant=False):
    """A dataset of two symbols with three targets, as the stages before would write it; returns its folds."""
    rng = np.random.default_rng(12)
    time = np.arange(rows, dtype=np.int64) * BAR_MS
    keys = pd.DataFrame({"segment": np.repeat([0, 1], rows).astype(np.int32), "time": np.tile(time, 2)})
    label_end = keys["time"].to_numpy() + 5 * BAR_MS
    x = rng.normal(size=(2 * rows, 3)).astype(np.float32)
    x[:, 2] = 1.0 if constant else x[:, 2]
    y = x[:, 0] + rng.normal(size=2 * rows)
    features = keys.assign(**{f"x{i}": x[:, i] for i in range(3)})
    artifacts.write_table(artifacts.FEATURES / "klines.parquet", features)
    for kind, values in (
        ("return", y.astype(np.float32)),
        ("barrier", np.digitize(y, [-0.5, 0.5]).astype(np.int32)),
        ("volatility", np.exp(y).astype(np.float32)),
    ):
        table = keys.assign(**dict(zip([*LABELS, "raw"], (label_end, values, 0.01 * y), strict=True)))
        table.attrs = Target(name=kind, horizon_bars=5, output=OUTPUTS[kind]).attributes
        artifacts.write_table(artifacts.LABELS / "klines" / f"{kind}.parquet", table)
    folds = cpcv(keys["time"].to_numpy(), label_end, groups=4, test_groups=2, embargo_pct=0.01, holdout_pct=0.2)
    artifacts.FOLDS.mkdir(parents=True)
    symbol = pd.Categorical(np.repeat(["BTCUSDT", "ARBUSDT"], rows))
    with artifacts.replace_atomically(artifacts.FOLDS / "klines.parquet") as draft:
        folds.save(draft, keys.assign(symbol=symbol))
    targets = {kind: {"kind": kind} for kind in ("return", "barrier", "volatility")}
    Path("params.yaml").write_text(yaml.safe_dump({"datasets": {"klines": {"targets": targets}}, "gates": BLOCK}))
    return folds


def read_outputs():
    return {str(file): file.read_bytes() for file in Path("trained").rglob("*") if file.is_file()}


def test_nothing_of_the_holdout_changes_the_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folds = write_dataset()
    stage.main("klines")
    before = read_outputs()
    assert sorted(before) == [
        "trained/plots/signals_klines/rank_ic.png",
        "trained/reports/signals/details/klines.json",
        "trained/reports/signals/klines.json",
        "trained/reports/signals/klines.md",
    ]
    unused = np.setdiff1d(np.arange(2400), folds.development())
    assert len(unused) > 400
    for file in [artifacts.FEATURES / "klines.parquet", *(artifacts.LABELS / "klines").glob("*.parquet")]:
        table = pd.read_parquet(file)
        for column in table.columns.difference(["segment", "time", "label_end"]):
            values = table[column].to_numpy().copy()
            values[unused] = 2 if values.dtype == np.int32 else 1e6
            table[column] = values
        artifacts.write_table(file, table)
    stage.main("klines")
    assert read_outputs() == before


def test_the_report_has_every_metric_of_every_feature_and_target(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folds = write_dataset(constant=True)
    stage.main("klines")
    details = artifacts.read_report("signals/details", "klines")
    assert {name: found["has_direction"] for name, found in details.items()} == {
        "return": True,
        "barrier": True,
        "volatility": False,
    }
    strong, weak, constant = details["return"]["features"].values()
    assert strong["rows"] == len(folds.development())
    assert strong["ic"] == pytest.approx(np.sqrt(0.5), abs=0.05)
    assert len(strong["ic_groups"]) == 4
    assert strong["gates"]["signal_ic"] == {"value": strong["ic"], "limit": 0.05, "passes": True}
    assert strong["gates"]["signal_turnover"]["passes"] is False
    assert weak["gates"]["signal_p_value"]["passes"] is False
    assert (constant["ic"], constant["undefined"]["ic"]) == (None, "the feature never varies")
    assert constant["gates"]["signal_ic"]["passes"] is None
    headline = artifacts.read_report("signals", "klines")["return"]
    assert (headline["best_feature"], headline["features"]) == ("x0", 3)
    assert headline["best_abs_ic"] == strong["ic"]
    assert headline["passing"] == {
        "signal_ic": 1,
        "signal_correlation": 1,
        "signal_turnover": 0,
        "signal_p_value": 1,
        "all": 0,
    }
    page = Path("trained/reports/signals/klines.md").read_text()
    assert f"# klines: 3 features as signals, {len(folds.development()):,} development rows" in page
    assert "## volatility (without a direction)" in page
    assert [
        line.split("`")[1] for line in page.split("## return\n")[1].split("##")[0].splitlines() if "| `" in line
    ] == [
        "x0",
        "x1",
        "x2",
    ]


def make_panel(features):
    rng = np.random.default_rng(13)
    groups = rng.normal(0, 0.1, size=(features, 4))
    return SignalPanel(groups.mean(axis=1), groups, np.arange(features) == 0)


def test_the_picture_names_its_axes_and_marks_what_is_distinguishable():
    figure = plot_signals(["a", "b"], {"return_5": make_panel(2)}, title="klines: rank IC", unit="rank IC (Spearman)")
    axes, bar = figure.axes
    assert figure.get_suptitle() == "klines: rank IC; 2 features"
    assert (axes.get_title(loc="left"), axes.get_ylabel()) == ("target return_5", "feature")
    assert bar.get_xlabel() == "rank IC (Spearman)"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["all", "0", "1", "2", "3"]
    texts = {label.get_text() for label in axes.texts}
    assert sum(text.endswith("*") for text in texts) == 1


def test_the_picture_says_how_many_features_it_shows():
    figure = plot_signals([f"x{i}" for i in range(98)], {"y": make_panel(98)}, title="t", unit="rank IC")
    assert figure.get_suptitle() == "t; 60 of 98 features"


def test_an_undefined_correlation_is_named_in_the_picture():
    panel = SignalPanel(np.array([np.nan]), np.full((1, 4), np.nan), np.array([False]))
    assert [text.get_text() for text in plot_signals(["a"], {"y": panel}, title="t", unit="u").axes[0].texts] == [
        "undefined"
    ]
