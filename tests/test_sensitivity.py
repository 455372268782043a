import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.signal import lfilter

from pipeline import artifacts
from pipeline.leakage import embargo_sensitivity
from pipeline.models import base
from pipeline.samples import Samples
from pipeline.stages import sensitivity
from pipeline.validation.folds import Folds, cpcv
from tests.data import OUTPUTS, make_target

BAR_MS = 60_000
EMBARGO_PCT = 0.003  # of 5,100 development rows: 16 bars
SLOW_BARS = 60  # the slow label's autocorrelation falls to 1/e after 64 bars: 4 embargoes
MEMORIZER = {
    "plugin": "lightgbm",
    "hyperparameters": {
        "loss": "l2",
        "learning_rate": 0.3,
        "num_leaves": 31,
        "min_data_in_leaf": 10,
        "feature_fraction": 1.0,
        "bagging_fraction": 1.0,
        "lambda_l2": 0.0,
        "max_bin": 63,
        "num_boost_round": 5,
        "early_stopping_rounds": 5,
    },
}
SETTINGS = {**MEMORIZER, "embargo_factors": [0, 5], "resamples": 999, "significance": 0.01, "min_ic_drop": 0.01}


@pytest.fixture(autouse=True)
def one_worker(monkeypatch):
    monkeypatch.setenv("PIPELINE_WORKERS", "1")


def simulate_slow_process(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Return (rows,) unit variance: an AR(1) smoothed by another, whose autocorrelation is (1 + t/30)·exp(-t/30)."""
    keep = np.exp(-2 / SLOW_BARS)
    noise = rng.normal(size=rows + 1000)
    values = lfilter([1.0], [1.0, -2 * keep, keep**2], noise)[1000:]
    return values / values.std()


def simulate_samples(
    seed: int, *, slow_label: bool = False, slow_features: bool = False, signal: float = 0.0, rows: int = 6000
) -> Samples:
    """Return noise as labels and features; or slow labels, features that encode time, or an honest signal."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(rows, 6))
    x = (steps.cumsum(axis=0) / np.sqrt(SLOW_BARS) if slow_features else steps).astype(np.float32)
    y = rng.normal(size=rows) + signal * steps[:, 0] + (3.0 * simulate_slow_process(rng, rows) if slow_label else 0.0)
    time = BAR_MS * np.arange(rows, dtype=np.int64)
    return Samples(
        time=time,
        label_end=time + 5 * BAR_MS,
        segment=np.zeros(rows, np.int32),
        x=x,
        columns=tuple("abcdef"),
        y=(0.3 * y).astype(np.float32),
    )


def split_cpcv(samples: Samples, embargo_pct: float = EMBARGO_PCT) -> Folds:
    return cpcv(samples.time, samples.label_end, groups=6, test_groups=2, embargo_pct=embargo_pct, holdout_pct=0.15)


def make_settings(**changes: object) -> sensitivity.Settings:
    return sensitivity.Settings(**{**SETTINGS, **changes})


def measure(samples: Samples, *, seed: int = 0, embargo_pct: float = EMBARGO_PCT, **other: object) -> dict:
    signature = base.Signature(columns=samples.columns, output=OUTPUTS["return"])
    return sensitivity.measure_sensitivity(
        samples, split_cpcv(samples, embargo_pct), signature=signature, settings=make_settings(**other), seed=seed
    )


@pytest.mark.parametrize("seed", range(12))
def test_a_slow_label_with_features_that_encode_time_is_suspected_leakage(seed):
    report = measure(simulate_samples(seed, slow_label=True, slow_features=True), seed=seed)
    assert report["finding"]["severity"] == "warning"
    assert "suspected leakage" in report["finding"]["message"]
    assert report["boundary_ic"][0] - report["boundary_ic"][1] > 0.2


@pytest.mark.parametrize("seed", range(12))
def test_where_rows_are_independent_the_score_does_not_fall(seed):
    assert measure(simulate_samples(seed), seed=seed)["finding"]["severity"] == "ok"


@pytest.mark.parametrize("seed", range(4))
def test_features_that_encode_time_leak_nothing_where_labels_are_independent(seed):
    assert measure(simulate_samples(seed, slow_features=True), seed=seed)["finding"]["severity"] == "ok"


@pytest.mark.parametrize("seed", range(4))
def test_an_honest_signal_is_no_leak(seed):
    report = measure(simulate_samples(seed, signal=1.0), seed=seed)
    assert report["finding"]["severity"] == "ok"
    assert report["boundary_ic"][1] > 0.5


def test_the_score_falls_step_by_step_and_the_finding_says_which_embargo_is_long_enough():
    report = measure(simulate_samples(3, slow_label=True, slow_features=True), seed=3, embargo_factors=[0, 1, 5])
    assert report["embargo_bars"] == [0, 16, 80]
    assert report["boundary_ic"][0] > report["boundary_ic"][1] > report["boundary_ic"][2]
    assert "from 80 bars on no drop is significant" in report["finding"]["message"]
    assert set(report["finding"]["measurements"]["p_value"]) == {"0", "1"}


def test_every_embargo_trains_on_as_many_rows_and_on_none_that_it_removes():
    samples = simulate_samples(0)
    folds, factors = split_cpcv(samples), [0, 0.5, 1, 2, 5]
    ends = 0
    for shift in range(embargo_sensitivity.SHIFTS):
        for task in embargo_sensitivity.plan_tasks(folds, factors, shift=shift, seed=3):
            assert len({len(train) for train in task.trains}) == 1
            last_rows = task.test[np.flatnonzero(np.diff(task.test, append=10**9) > 1)]
            for train, bars in zip(task.trains, [0, 8, 16, 32, 80], strict=True):
                for last in last_rows:  # a label takes five bars, an embargo begins after it
                    assert not ((train > last) & (train <= last + 5 + bars)).any()
                assert not np.isin(train, (task.test[:, None] - np.arange(6)).ravel()).any()
            followed = [last for last in last_rows if last < folds.development()[-1]]
            assert np.isin([last + 6 for last in followed], task.trains[0]).all()
            ends += len(followed)
            assert task.test[task.is_boundary].tolist() == [
                last - back for last in followed for back in range(15, -1, -1)
            ]
    assert ends == 4 * (48 - 1)  # 5,100 rows hold 4 times 12 groups of 1.2 * (80 + 5)


def test_every_development_row_is_tested_once_but_for_those_that_a_shift_leaves_out():
    folds = split_cpcv(simulate_samples(0))
    tested = [
        np.sort(
            np.concatenate([task.test for task in embargo_sensitivity.plan_tasks(folds, [0, 5], shift=shift, seed=0)])
        )
        for shift in range(2)
    ]
    assert tested[0].tolist() == list(range(5100))
    assert tested[1].tolist() == list(range(5100 // (4 * 48), 5100))


def test_surplus_rows_are_dropped_from_far_rows_alone():
    trains = [np.arange(10), np.arange(2, 10), np.arange(4, 10)]
    far = np.array([6, 7, 8, 9])
    equal = embargo_sensitivity.equalize_sizes(trains, far=far, rng=np.random.default_rng(0))
    assert [len(train) for train in equal] == [6, 6, 6]
    assert all(set(range(first, 6)) <= set(train) for first, train in zip((0, 2, 4), equal, strict=True))
    assert set(equal[1]) - set(equal[0]) <= set(far)


def test_an_exchange_needs_as_many_rows_far_away():
    with pytest.raises(ValueError, match="removes 4 rows, and only 3 lie far"):
        embargo_sensitivity.equalize_sizes(
            [np.arange(10), np.arange(4, 10)], far=np.arange(7, 10), rng=np.random.default_rng(0)
        )


def test_correlations_from_sums_are_pearsons():
    rng = np.random.default_rng(0)
    y, score = rng.normal(3.0, 1.0, 200), rng.normal(-2.0, 1.0, (200, 3))
    score[:, 1] += y
    expected = [np.corrcoef(column, y)[0, 1] for column in score.T]
    assert embargo_sensitivity.correlate_sums(
        embargo_sensitivity.multiply_moments(score, y).sum(axis=0)
    ) == pytest.approx(expected)


def test_the_correlation_of_constant_scores_is_undefined():
    found = embargo_sensitivity.correlate_sums(
        embargo_sensitivity.multiply_moments(np.ones((9, 1)), np.arange(9.0)).sum(axis=0)
    )
    assert np.isnan(found).all()


def test_resampled_scores_are_those_of_the_rows_of_the_blocks_that_were_drawn():
    rng = np.random.default_rng(1)
    y, score, number = rng.normal(size=60), rng.normal(size=(60, 2)), np.repeat(np.arange(12), 5)
    is_boundary = np.ones(60, dtype=bool)
    scores = embargo_sensitivity.EmbargoScores(rows=np.arange(60), score=score, is_boundary=is_boundary)
    found = embargo_sensitivity.bootstrap_ic(scores, y, number, rng=np.random.default_rng(7), resamples=20)
    drawn = np.random.default_rng(7).multinomial(12, np.full(12, 1 / 12), size=20)
    for counts, resampled in zip(drawn, found.resampled, strict=True):
        rows = np.concatenate([np.flatnonzero(number == block) for block in np.repeat(np.arange(12), counts)])
        again = np.array([np.corrcoef(score[rows, j], y[rows])[0, 1] for j in range(2)])
        assert (resampled - found.boundary_ic) / np.sqrt(2 * 12 / 11) == pytest.approx(again - found.boundary_ic)


def test_a_drop_is_a_finding_only_where_it_is_significant_and_large_enough():
    deviations = np.linspace(-0.02, 0.02, 199)
    curve = embargo_sensitivity.IcCurve(
        ic=np.array([0.1, 0.0]),
        boundary_ic=np.array([0.1, 0.0]),
        resampled=np.column_stack([0.1 + deviations, 0 * deviations]),
    )
    limits = {"significance": 0.01, "min_ic_drop": 0.05}
    assert (
        embargo_sensitivity.check_ic_drop(curve, embargo_factors=[0, 5], embargo_bars=[0, 80], **limits).severity
        == "warning"
    )
    assert (
        embargo_sensitivity.check_ic_drop(
            curve, embargo_factors=[0, 5], embargo_bars=[0, 80], **{**limits, "min_ic_drop": 0.1}
        ).severity
        == "ok"
    )
    assert (
        embargo_sensitivity.check_ic_drop(
            curve, embargo_factors=[0, 5], embargo_bars=[0, 80], **{**limits, "significance": 0.005}
        ).severity
        == "ok"
    )  # 1 / 200


def test_classes_are_scored_by_the_last_over_the_first():
    samples = simulate_samples(0, signal=2.0, rows=3000)
    codes = np.digitize(samples.y, np.quantile(samples.y, [1 / 3, 2 / 3])).astype(np.int32)
    classes = Samples(**{**vars(samples), "y": codes})
    signature = base.Signature(columns=samples.columns, output=OUTPUTS["barrier"])
    hyperparameters = {**MEMORIZER["hyperparameters"], "loss": "log"}
    report = sensitivity.measure_sensitivity(
        classes,
        split_cpcv(classes),
        signature=signature,
        settings=make_settings(hyperparameters=hyperparameters),
        seed=0,
    )
    assert min(report["boundary_ic"]) > 0.4


def test_without_an_embargo_nothing_is_measured_and_the_report_says_so():
    report = measure(simulate_samples(0, rows=1000), embargo_pct=0.0)
    assert "the embargo is 0 bars, split.embargo_pct (0)" in report["reason"]
    assert report["finding"]["severity"] == "ok"
    assert "boundary_ic" not in report


def test_too_few_blocks_of_time_are_reported():
    report = measure(simulate_samples(0, rows=1000), embargo_pct=0.04)
    assert "blocks of time lie near a test's end, 10 are needed" in report["reason"]


@pytest.mark.parametrize("factors", [[0], [1, 5], [0, 5, 2], [0, 0]])
def test_factors_ascend_from_0(factors):
    with pytest.raises(ValueError, match="give 0 and then rising multiples"):
        measure(simulate_samples(0, rows=1000), embargo_factors=factors)


def test_a_span_of_time_has_as_many_bars_as_open_within_it():
    grid = BAR_MS * np.arange(1000)
    assert embargo_sensitivity.count_times_within(grid, 37 * BAR_MS) == 37
    sessions = np.concatenate([grid[:390], grid[:390] + 1440 * BAR_MS])  # two days of 390 bars
    assert embargo_sensitivity.count_times_within(sessions, 389 * BAR_MS) == 389
    assert (
        embargo_sensitivity.count_times_within(sessions, 1440 * BAR_MS) == 390
    )  # one day later, whatever is closed in between


def test_an_embargo_that_leaves_no_rows_far_from_all_tests_is_refused():
    with pytest.raises(ValueError, match="850 times cannot hold 4 groups of 264, for the longest embargo has 215 bars"):
        measure(simulate_samples(0, rows=1000), embargo_pct=0.05)


def test_the_report_has_the_same_bytes_for_any_number_of_workers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    samples = simulate_samples(0, rows=2000)
    key = pd.DataFrame({"segment": samples.segment, "time": samples.time})
    x = pd.DataFrame(samples.x, columns=list(samples.columns))
    truth = pd.DataFrame({"label_end": samples.label_end, "y": samples.y})
    artifacts.write_table(artifacts.FEATURES / "d.parquet", pd.concat([key, x], axis=1))
    labels = pd.concat([key, truth], axis=1)
    labels.attrs = make_target("return").attributes
    artifacts.write_table(artifacts.LABELS / "d" / "return_5.parquet", labels)
    artifacts.FOLDS.mkdir()
    with artifacts.replace_atomically(artifacts.FOLDS / "d.parquet") as draft:
        split_cpcv(samples).save(draft, key[["segment"]])
    targets = {"return_5": {"kind": "return"}, "barrier_20": {"kind": "barrier"}}
    params = {"seed": 42, "datasets": {"d": {"targets": targets}}, "embargo_sensitivity": SETTINGS}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    reports = []
    for workers in ("1", "2"):
        monkeypatch.setenv("PIPELINE_WORKERS", workers)
        sensitivity.main("d")
        reports.append(artifacts.report_path("sensitivity", "d").read_bytes())
    assert reports[0] == reports[1]
    assert artifacts.read_json(artifacts.report_path("sensitivity", "d"))["target"] == "return_5"


def test_the_target_is_the_first_whose_y_is_a_number_with_a_direction(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in ("barrier", "volatility", "trend"):
        table = pd.DataFrame({"y": [0.0]})
        table.attrs = make_target(kind).attributes
        artifacts.write_table(artifacts.LABELS / "d" / f"{kind}.parquet", table)
    assert sensitivity.find_target("d", ["barrier", "volatility", "trend"]) == "trend"
    assert sensitivity.find_target("d", ["barrier", "volatility"]) is None


def test_a_dataset_without_such_a_target_says_that_nothing_was_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame({"y": [0.0]})
    table.attrs = make_target("barrier").attributes
    artifacts.write_table(artifacts.LABELS / "d" / "a.parquet", table)
    params = {"seed": 42, "datasets": {"d": {"targets": {"a": {"kind": "barrier"}}}}, "embargo_sensitivity": SETTINGS}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    sensitivity.main("d")
    report = artifacts.read_json(artifacts.report_path("sensitivity", "d"))
    assert report["reason"] == "no target of the dataset is a number with a direction"
    assert report["finding"]["severity"] == "ok"
