from collections.abc import Callable

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from pipeline.leakage.findings import Finding
from pipeline.leakage.fits import alter_unseen_rows, data_snooping, fit_rows, normalization, row_order, unseen_rows
from pipeline.models.base import Model, Signature
from pipeline.samples import Samples
from tests.data import OUTPUTS, TEST, TRAIN, VALID, plant_samples
from tests.params import BLOCKS, PARAMS, SHORT, build_model, kind_of

BAR = 60_000


def draw_drifting(count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    columns = [rng.normal(5, 0.01, count), np.cumsum(rng.normal(size=count)), np.ones(count)]
    return np.column_stack(columns).astype(np.float32)


@pytest.mark.parametrize("precision", [np.float64, np.float32])
def test_normalization_is_ok_for_statistics_of_the_train_rows(precision: type):
    x = draw_drifting(3_000)
    scaler = StandardScaler().fit(x[:2_000])
    statistics = scaler.mean_.astype(precision), scaler.scale_.astype(precision)
    assert normalization(statistics, x[:2_000]).severity == "ok"


@pytest.mark.parametrize("fitted_on", [slice(0, 3_000), slice(0, 2_001), slice(1, 2_000)])
def test_normalization_finds_statistics_of_other_rows(fitted_on: slice):
    x = draw_drifting(3_000)
    scaler = StandardScaler().fit(x[fitted_on])
    found = normalization((scaler.mean_, scaler.scale_), x[:2_000])
    assert found.severity == "critical"
    assert "column 1 is standardized by mean" in found.message


def test_normalization_finds_statistics_that_are_not_finite():
    x = draw_drifting(100)
    found = normalization((np.full(3, np.nan), x.std(axis=0)), x)
    assert (found.severity, found.measurements["differing"]) == ("critical", 3)


# columns that a model declares unscaled: the same statistics, leaky and clean


def standardize_but(*unscaled: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Return (mean, scale) of train rows, 0 and 1 for some columns, and the rows."""
    x = draw_drifting(2_000)
    scaler = StandardScaler().fit(x)
    mean, scale = scaler.mean_.copy(), scaler.scale_.copy()
    mean[[*unscaled]], scale[[*unscaled]] = 0.0, 1.0
    return (mean, scale), x


@pytest.mark.parametrize("unscaled", [(0,), (1,), (0, 1), (2,)])
def test_columns_are_unscaled_where_the_model_declares_it_and_nowhere_else(unscaled: tuple[int, ...]):
    statistics, x = standardize_but(*unscaled)
    clean = normalization(statistics, x, unscaled=unscaled)
    assert (clean.severity, clean.measurements["unscaled"]) == ("ok", len(unscaled))
    undeclared = normalization(statistics, x)
    assert undeclared.severity == "critical"
    assert f"column {unscaled[0]} is standardized by mean 0 and scale 1, its 2000 train rows have" in undeclared.message


@pytest.mark.parametrize("column", [0, 1])
def test_a_column_that_is_declared_unscaled_but_standardized_is_found(column: int):
    statistics, x = standardize_but()
    found = normalization(statistics, x, unscaled=[column])
    assert (found.severity, found.measurements["differing"]) == ("critical", 1)
    assert f"column {column} is standardized by mean" in found.message
    assert "but is declared unscaled" in found.message


@pytest.mark.parametrize(("mean", "scale"), [(1e-6, 1.0), (0.0, 1 + 1e-6), (0.0, 0.0), (np.nan, 1.0), (0.0, np.nan)])
def test_an_unscaled_column_has_exactly_mean_0_and_scale_1(mean: float, scale: float):
    statistics, x = standardize_but(0)
    statistics[0][0], statistics[1][0] = mean, scale
    assert normalization(statistics, x, unscaled=[0]).severity == "critical"


def test_an_unscaled_column_does_not_excuse_another_that_was_fitted_on_other_rows():
    x = draw_drifting(3_000)
    scaler = StandardScaler().fit(x)
    mean, scale = scaler.mean_.copy(), scaler.scale_.copy()
    mean[0], scale[0] = 0.0, 1.0
    found = normalization((mean, scale), x[:2_000], unscaled=[0])
    assert (found.severity, found.measurements["differing"]) == ("critical", 1)
    assert "column 1 is standardized" in found.message


def test_a_model_that_standardizes_nothing_is_ok():
    assert normalization(None, draw_drifting(100)).severity == "ok"


def test_data_snooping_counts_trials():
    found = data_snooping(["a", "b", "c"], ["return_5", "barrier_20"], trials=7)
    assert (found.severity, found.measurements) == ("ok", {"models": 3, "targets": 2, "trials": 7})


# fit_rows

TIME = np.arange(100, dtype=np.int64) * BAR


def check_parts(train, valid, test, *, horizon: int = 2) -> Finding:
    train, valid, test = (np.array(rows, dtype=np.int64) for rows in (train, valid, test))
    return fit_rows(train, valid, test, time=TIME, label_end=TIME + horizon * BAR)


def test_a_fit_with_purged_parts_is_ok():
    found = check_parts(range(50), range(52, 60), range(62, 100))
    assert (found.guard, found.severity) == ("fit_rows", "ok")
    assert {name: found.measurements[name] for name in ("train", "valid", "test")} == {
        "train": 50,
        "valid": 8,
        "test": 38,
    }


@pytest.mark.parametrize(
    ("train", "valid", "test", "message"),
    [
        (
            range(50),
            range(52, 65),
            range(62, 100),
            "3 rows, first row 62 at 3720000, are in train or valid, and in test",
        ),
        (
            range(50),
            range(52, 61),
            range(62, 100),
            "1 rows, first row 60 at 3600000, of train or valid have a span that overlaps",
        ),
        (
            [*range(50), 70],
            range(52, 60),
            range(80, 100),
            "1 rows, first row 70 at 4200000, of train have labels that have not ended",
        ),
        (
            range(51),
            range(52, 60),
            range(62, 100),
            "1 rows, first row 50 at 3000000, of train have labels that have not ended",
        ),
        (
            range(60),
            range(40, 60),
            range(62, 100),
            "22 rows, first row 38 at 2280000, of train have labels that have not ended",
        ),
    ],
)
def test_parts_of_a_fit_that_overlap_are_found(train, valid, test, message: str):
    found = check_parts(train, valid, test)
    assert found.severity == "critical"
    assert message in found.message


def test_a_fit_without_valid_rows_is_ok():
    assert check_parts(range(50), [], range(52, 100)).severity == "ok"


# unseen_rows and row_order

SEEN = np.concatenate([TRAIN, VALID])


def make_refit(*, rows: Callable[[Samples], np.ndarray]) -> Callable[[Samples], np.ndarray]:
    """Return a least-squares fit on the rows that it chooses; it predicts the same inputs each time."""
    inputs = plant_samples("return", seed=1).x[TEST].astype(np.float64)

    def refit(samples: Samples) -> np.ndarray:
        chosen = rows(samples)
        return inputs @ np.linalg.lstsq(samples.x[chosen].astype(np.float64), samples.y[chosen].astype(np.float64))[0]

    return refit


def check_unseen(refit: Callable[[Samples], np.ndarray], *, kind: str = "return", lookback_bars: int = 0) -> Finding:
    return unseen_rows(plant_samples(kind, seed=1), SEEN, refit, lookback_bars=lookback_bars, seed=3)


def test_a_fit_on_its_own_rows_alone_keeps_every_bit():
    assert check_unseen(make_refit(rows=lambda samples: SEEN)).severity == "ok"


@pytest.mark.parametrize("foreign", [[5_000], [6_500], list(range(6_600, 8_000))])
def test_a_fit_that_learns_from_one_other_row_is_found(foreign: list[int]):
    found = check_unseen(make_refit(rows=lambda samples: np.append(SEEN, foreign)))
    assert (found.guard, found.severity) == ("unseen_rows", "critical")
    assert found.measurements["differing"] == found.measurements["predictions"] == len(TEST)
    assert f"{len(TEST)} of {len(TEST)} predictions change" in found.message


def test_a_threshold_chosen_on_test_rows_is_found_by_altered_moves_and_by_altered_classes():
    def choose_threshold(samples: Samples) -> np.ndarray:
        pnl = [samples.fills.move[TEST][samples.x[TEST, 0] > threshold].sum() for threshold in np.linspace(-1, 1, 21)]
        return np.full((5, 1), np.argmax(pnl))

    def estimate_class_shares(samples: Samples) -> np.ndarray:
        return np.tile(np.bincount(samples.y[TEST], minlength=3) / len(TEST), (5, 1))

    assert check_unseen(choose_threshold).severity == "critical"
    assert check_unseen(estimate_class_shares, kind="barrier").severity == "critical"


STATISTICS = {
    "mean": lambda x: x.mean(axis=0),
    "scale": lambda x: x.std(axis=0),
    "quantile": lambda x: np.quantile(x, 0.9, axis=0),
    "largest": lambda x: x.max(axis=0),
    "principal component": lambda x: np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2][0],
}


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_statistic_of_all_rows_is_found_and_one_of_the_seen_rows_is_not(statistic: str):
    of = STATISTICS[statistic]
    of_all_rows = check_unseen(
        lambda samples: of(samples.x.astype(np.float64)).round(4)[None]
    )  # differs by more than the last bits
    assert of_all_rows.severity == "critical"
    assert check_unseen(lambda samples: of(samples.x[SEEN])[None]).severity == "ok"


@pytest.mark.parametrize("lookback_bars", [0, 59])
def test_only_rows_outside_the_windows_of_seen_rows_are_altered(lookback_bars: int):
    samples = plant_samples("return", seed=1)
    other = alter_unseen_rows(samples, SEEN, lookback_bars=lookback_bars, seed=1)
    differs = (other.x != samples.x).any(axis=1)
    starts = {0: TRAIN[0] - lookback_bars, 5_000: max(VALID[0] - lookback_bars, 5_000)}
    read = np.r_[starts[0] : TRAIN[-1] + 1, starts[5_000] : VALID[-1] + 1]
    unread = np.setdiff1d(np.arange(8_000), read)
    assert not differs[read].any()
    assert differs[unread].mean() > 0.99
    assert np.array_equal(np.flatnonzero(other.y == samples.y), SEEN)
    assert np.array_equal(other.time, samples.time)


def test_of_several_horizons_the_labels_of_unseen_rows_are_altered_over_each():
    samples = plant_samples("return", seed=1, horizons=3)
    other = alter_unseen_rows(samples, SEEN, lookback_bars=0, seed=1)
    for before, after in zip(samples.y_by_horizon.T, other.y_by_horizon.T, strict=True):
        assert np.array_equal(np.flatnonzero(after == before), SEEN)
        assert before.min() <= after.min() <= after.max() <= before.max()  # plausible: in the range of its own horizon
    assert np.array_equal(other.y_by_horizon[:, -1], other.y)


@pytest.mark.parametrize("kind", ["direction", "barrier"])
def test_every_unseen_class_becomes_another_existing_class(kind: str):
    samples = plant_samples(kind, seed=1)
    other = alter_unseen_rows(samples, SEEN, lookback_bars=0, seed=1)
    assert np.array_equal(np.flatnonzero(other.y == samples.y), SEEN)
    assert set(other.y) == set(samples.y)
    assert other.y.dtype == samples.y.dtype


def check_order(predict_rows, *, rows: np.ndarray = TEST) -> Finding:
    return row_order(predict_rows, plant_samples("return", seed=1), rows, seed=3)


DEPENDENT = {
    "the number of the row": lambda samples, rows: (rows % 7)[:, None],
    "the place among the rows given": lambda samples, rows: np.arange(len(rows))[:, None],
    "the rows given before": lambda samples, rows: np.cumsum(samples.x[rows, :1], axis=0),
    "the length of the table": lambda samples, rows: np.full((len(rows), 1), len(samples.time)),
    "the distance to the end": lambda samples, rows: (len(samples.time) - rows)[:, None],
    "the other rows of the batch": lambda samples, rows: samples.x[rows] - samples.x[rows][: len(rows) // 2].mean(),
}


@pytest.mark.parametrize("what", DEPENDENT)
def test_predictions_that_depend_on_more_than_inputs_are_found(what: str):
    found = check_order(DEPENDENT[what])
    assert (found.guard, found.severity) == ("row_order", "critical")


def test_predictions_from_windows_and_with_the_rounding_of_float32_are_ok():
    def average_window(samples: Samples, rows: np.ndarray) -> np.ndarray:
        return np.mean([samples.x[rows - back] for back in range(60)], axis=0)

    def round_by_batch(samples: Samples, rows: np.ndarray) -> np.ndarray:
        return samples.x[rows] * np.float32(1 + 1e-7 * (rows[0] % 2))

    assert check_order(average_window).severity == check_order(round_by_batch).severity == "ok"


def test_a_prediction_that_is_nan_is_not_equal():
    assert check_order(lambda samples, rows: np.full((len(rows), 1), np.nan)).severity == "critical"


@pytest.mark.parametrize("name", [name for name, (family, _) in BLOCKS.items() if name in PARAMS["models"][family]])
def test_every_model_of_params_learns_from_its_rows_and_predicts_from_its_inputs(name: str):
    samples = plant_samples(kind_of(name), seed=1)

    def fit_model(on: Samples) -> Model:
        signature = Signature(columns=on.columns, output=OUTPUTS[kind_of(name)])
        model = build_model(name, signature, seed=7, changes=SHORT[BLOCKS[name][0]])
        model.fit(on, TRAIN, VALID)
        return model

    def refit(on: Samples) -> np.ndarray:
        return fit_model(on).predict_rows(samples, TEST)

    model = fit_model(samples)
    found = [
        unseen_rows(samples, SEEN, refit, lookback_bars=model.lookback_bars, seed=3),
        row_order(model.predict_rows, samples, TEST, seed=3),
    ]
    assert [guard.severity for guard in found] == ["ok", "ok"]
