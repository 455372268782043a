from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.preprocessing import StandardScaler

from pipeline.labels import OUTPUTS
from pipeline.leakage.findings import Finding
from pipeline.leakage.fits import altered, data_snooping, fit_rows, normalization, row_order, unseen_rows
from pipeline.models.base import Model, Shape, build
from pipeline.samples import Samples
from tests.data import TEST, TRAIN, VALID, planted

BAR = 60_000


def drifting(count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    columns = [rng.normal(5, 0.01, count), np.cumsum(rng.normal(size=count)), np.ones(count)]
    return np.column_stack(columns).astype(np.float32)


@pytest.mark.parametrize("precision", [np.float64, np.float32])
def test_normalization_holds_for_statistics_of_the_train_rows(precision: type):
    x = drifting(3_000)
    scaler = StandardScaler().fit(x[:2_000])
    statistics = scaler.mean_.astype(precision), scaler.scale_.astype(precision)
    assert normalization(statistics, x[:2_000]).severity == "ok"


@pytest.mark.parametrize("fitted_on", [slice(0, 3_000), slice(0, 2_001), slice(1, 2_000)])
def test_normalization_sees_statistics_of_other_rows(fitted_on: slice):
    x = drifting(3_000)
    scaler = StandardScaler().fit(x[fitted_on])
    found = normalization((scaler.mean_, scaler.scale_), x[:2_000])
    assert found.severity == "critical"
    assert "column 1 is standardised by mean" in found.message


def test_normalization_refuses_statistics_that_are_not_numbers():
    x = drifting(100)
    found = normalization((np.full(3, np.nan), x.std(axis=0)), x)
    assert (found.severity, found.figures["differing"]) == ("critical", 3)


def test_a_model_that_standardises_nothing_leaks_nothing():
    assert normalization(None, drifting(100)).severity == "ok"


def test_data_snooping_counts_what_was_tried():
    found = data_snooping(["a", "b", "c"], ["return_5", "barrier_20"], trials=7)
    assert (found.severity, found.figures) == ("ok", {"models": 3, "targets": 2, "trials": 7})


# fit_rows

TIME = np.arange(100, dtype=np.int64) * BAR


def parted(train, valid, test, *, horizon: int = 2) -> Finding:
    train, valid, test = (np.array(rows, dtype=np.int64) for rows in (train, valid, test))
    return fit_rows(train, valid, test, time=TIME, label_end=TIME + horizon * BAR)


def test_a_fit_whose_parts_stand_apart_is_fine():
    found = parted(range(50), range(52, 60), range(62, 100))
    assert (found.guard, found.severity) == ("fit_rows", "ok")
    assert {name: found.figures[name] for name in ("train", "valid", "test")} == {"train": 50, "valid": 8, "test": 38}


@pytest.mark.parametrize(
    ("train", "valid", "test", "message"),
    [
        (range(50), range(52, 65), range(62, 100), "3 rows, first row 62 at 3720000, are both seen and tested"),
        (range(50), range(52, 61), range(62, 100), "1 rows, first row 60 at 3600000, are seen and have a label span"),
        ([*range(50), 70], range(52, 60), range(80, 100), "1 rows, first row 70 at 4200000, are learnt from, with"),
        (range(51), range(52, 60), range(62, 100), "1 rows, first row 50 at 3000000, are learnt from, with labels"),
        (range(60), range(40, 60), range(62, 100), "22 rows, first row 38 at 2280000, are learnt from, with labels"),
    ],
)
def test_a_fit_that_sees_what_it_is_tested_or_stopped_by_is_found(train, valid, test, message: str):
    found = parted(train, valid, test)
    assert found.severity == "critical"
    assert message in found.message


def test_a_fit_without_a_valid_part_has_nothing_to_keep_apart_from_it():
    assert parted(range(50), [], range(52, 100)).severity == "ok"


# unseen_rows and row_order

PARAMS = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))
SEEN = np.concatenate([TRAIN, VALID])


def of_rows(*, rows: Callable[[Samples], np.ndarray]) -> Callable[[Samples], np.ndarray]:
    """A fit by least squares on the rows that it chooses; it answers the same inputs each time."""
    inputs = planted("return", seed=1).x[TEST].astype(np.float64)

    def refit(samples: Samples) -> np.ndarray:
        chosen = rows(samples)
        return inputs @ np.linalg.lstsq(samples.x[chosen].astype(np.float64), samples.y[chosen].astype(np.float64))[0]

    return refit


def unseen(refit: Callable[[Samples], np.ndarray], *, kind: str = "return", reach_bars: int = 0) -> Finding:
    return unseen_rows(planted(kind, seed=1), SEEN, refit, reach_bars=reach_bars, seed=3)


def test_a_fit_on_its_rows_alone_keeps_every_bit():
    assert unseen(of_rows(rows=lambda samples: SEEN)).severity == "ok"


@pytest.mark.parametrize("stolen", [[5_000], [6_500], list(range(6_600, 8_000))])
def test_a_fit_that_learns_from_a_single_other_row_is_found(stolen: list[int]):
    found = unseen(of_rows(rows=lambda samples: np.append(SEEN, stolen)))
    assert (found.guard, found.severity) == ("unseen_rows", "critical")
    assert found.figures["differing"] == found.figures["answers"] == len(TEST)
    assert f"{len(TEST)} of {len(TEST)} answers change" in found.message


def test_a_threshold_chosen_on_what_came_true_later_is_found_by_move_and_classes_too():
    def best_threshold(samples: Samples) -> np.ndarray:
        pnl = [samples.move[TEST][samples.x[TEST, 0] > threshold].sum() for threshold in np.linspace(-1, 1, 21)]
        return np.full((5, 1), np.argmax(pnl))

    def share_of_classes(samples: Samples) -> np.ndarray:
        return np.tile(np.bincount(samples.y[TEST], minlength=3) / len(TEST), (5, 1))

    assert unseen(best_threshold).severity == "critical"
    assert unseen(share_of_classes, kind="barrier").severity == "critical"


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
    everywhere = unseen(lambda samples: of(samples.x.astype(np.float64)).round(4)[None])  # not by the last bits alone
    assert everywhere.severity == "critical"
    assert unseen(lambda samples: of(samples.x[SEEN])[None]).severity == "ok"


@pytest.mark.parametrize("reach_bars", [0, 59])
def test_only_what_no_window_of_a_seen_row_reaches_is_altered(reach_bars: int):
    samples = planted("return", seed=1)
    other = altered(samples, SEEN, reach_bars=reach_bars, seed=1)
    differs = (other.x != samples.x).any(axis=1)
    starts = {0: TRAIN[0] - reach_bars, 5_000: max(VALID[0] - reach_bars, 5_000)}
    reached = np.r_[starts[0] : TRAIN[-1] + 1, starts[5_000] : VALID[-1] + 1]
    free = np.setdiff1d(np.arange(8_000), reached)
    assert not differs[reached].any()
    assert differs[free].mean() > 0.99
    assert np.array_equal(np.flatnonzero(other.y == samples.y), SEEN)
    assert np.array_equal(other.time, samples.time)


@pytest.mark.parametrize("kind", ["direction", "barrier"])
def test_every_unseen_class_becomes_another_that_exists(kind: str):
    samples = planted(kind, seed=1)
    other = altered(samples, SEEN, reach_bars=0, seed=1)
    assert np.array_equal(np.flatnonzero(other.y == samples.y), SEEN)
    assert set(other.y) == set(samples.y)
    assert other.y.dtype == samples.y.dtype


def ordered(answer, *, rows: np.ndarray = TEST) -> Finding:
    return row_order(answer, planted("return", seed=1), rows, seed=3)


REMEMBERING = {
    "the number of the row": lambda samples, rows: (rows % 7)[:, None],
    "the place among the rows asked for": lambda samples, rows: np.arange(len(rows))[:, None],
    "the rows asked for before": lambda samples, rows: np.cumsum(samples.x[rows, :1], axis=0),
    "how long the table is": lambda samples, rows: np.full((len(rows), 1), len(samples.time)),
    "how far the end is": lambda samples, rows: (len(samples.time) - rows)[:, None],
    "the row in batches of its own": lambda samples, rows: samples.x[rows] - samples.x[rows][: len(rows) // 2].mean(),
}


@pytest.mark.parametrize("what", REMEMBERING)
def test_answers_that_depend_on_more_than_inputs_are_found(what: str):
    found = ordered(REMEMBERING[what])
    assert (found.guard, found.severity) == ("row_order", "critical")


def test_answers_from_windows_and_with_the_rounding_of_float32_are_fine():
    def of_window(samples: Samples, rows: np.ndarray) -> np.ndarray:
        return np.mean([samples.x[rows - back] for back in range(60)], axis=0)

    def of_batch(samples: Samples, rows: np.ndarray) -> np.ndarray:
        return samples.x[rows] * np.float32(1 + 1e-7 * (rows[0] % 2))

    assert ordered(of_window).severity == ordered(of_batch).severity == "ok"


def test_an_answer_that_is_no_number_is_not_the_same():
    assert ordered(lambda samples, rows: np.full((len(rows), 1), np.nan)).severity == "critical"


@pytest.mark.parametrize("name", PARAMS["models"])
def test_every_model_of_params_learns_from_its_rows_and_answers_from_its_inputs(name: str):
    block = PARAMS["models"][name]
    kind = PARAMS["datasets"][block["dataset"]]["targets"][block["target"]]["kind"]
    samples = planted(kind, seed=1)
    short = {"trees": {"rounds": 20}, "nets": {"epochs": 4}, "agents": {"rounds": 2, "warm_up": 500}}
    shared = PARAMS[block["family"]] | short[block["family"]]
    if block["family"] == "agents":
        block = block | {"build": block["build"] | {"episodes": 20}}

    def fitted(on: Samples) -> Model:
        model = build(block, Shape(columns=on.columns, outputs=OUTPUTS[kind]), shared=shared, seed=7)
        model.fit(on, TRAIN, VALID)
        return model

    model = fitted(samples)
    found = [
        unseen_rows(samples, SEEN, lambda on: fitted(on).answer(samples, TEST), reach_bars=model.reach_bars, seed=3),
        row_order(model.answer, samples, TEST, seed=3),
    ]
    assert [guard.severity for guard in found] == ["ok", "ok"]
