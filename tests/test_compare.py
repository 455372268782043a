import numpy as np
import pytest

from pipeline import overfitting
from pipeline.stages import compare
from pipeline.stages.compare import Returns

RNG = np.random.default_rng(0)


def model(mean, *, seed, rows=4000, paths=3):
    rng = np.random.default_rng(seed)
    return Returns(paths=rng.normal(mean, 1e-3, size=(rows, paths)), holdout=rng.normal(mean, 1e-3, size=500))


def compared(models, **changes):
    block = {"blocks": 8, "confidence": 0.95, "earlier_trials": 0} | changes
    return compare.compared(models, 525_600.0, len(models), **block)


def test_the_median_path_is_one_path_not_a_mean_of_them():
    paths = np.array([[1.0, 2.0, -1.0], [-1.0, 1.0, -2.0], [2.0, 3.0, -1.5]])
    returns = Returns(paths=paths, holdout=np.zeros(2))
    assert returns.median_path.tolist() == paths[:, 0].tolist()


def test_the_best_model_stands_first_and_one_that_never_trades_last():
    idle = Returns(paths=np.zeros((4000, 3)), holdout=np.zeros(500))
    board = compared({"idle": idle, "poor": model(-1e-4, seed=1), "good": model(2e-4, seed=2)}).board
    assert list(board) == ["good", "poor", "idle"]
    assert np.isnan(board["idle"]["dsr"])
    assert board["idle"]["why"] == "no trade"


def test_the_deflated_sharpe_is_that_of_the_median_path_with_the_number_of_trials():
    models = {"a": model(1e-4, seed=1), "b": model(2e-5, seed=2)}
    board = compared(models, earlier_trials=18).board
    ratios = {name: np.median(found.sharpes) for name, found in models.items()}
    moments = overfitting.sharpe_moments(models["a"].median_path)
    assert moments["sharpe"] == pytest.approx(ratios["a"])
    expected = overfitting.deflated_sharpe(**moments, variance=np.var(list(ratios.values()), ddof=1), trials=20)
    assert board["a"]["dsr"] == pytest.approx(expected)
    assert compared(models).board["a"]["dsr"] > expected


def test_more_trials_before_these_lower_the_deflated_sharpe():
    models = {"a": model(5e-5, seed=1), "b": model(0.0, seed=2)}
    dsr = [compared(models, earlier_trials=trials).board["a"]["dsr"] for trials in (0, 10, 1000)]
    assert dsr == sorted(dsr, reverse=True)
    assert len(set(dsr)) == 3


def test_one_model_has_a_sharpe_but_no_pbo_and_says_why():
    report = compared({"a": model(1e-4, seed=1)})
    headline = compare.headline(report)
    assert np.isnan(headline["pbo"])
    assert headline["why"] == "no PBO: fewer than two models trade, there is nothing to choose from"
    assert report.board["a"]["dsr"] == report.board["a"]["psr"]  # a single trial is not deflated


def test_the_table_shows_a_dash_where_a_figure_is_undefined():
    idle = Returns(paths=np.zeros((4000, 3)), holdout=np.zeros(500))
    table = compare.markdown("klines", compared({"idle": idle, "good": model(2e-4, seed=2)}))
    assert "| idle | – | – | – |" in table


def test_negative_earlier_trials_are_refused():
    with pytest.raises(ValueError, match=r"compare\.earlier_trials is -1"):
        compared({"a": model(0.0, seed=1)}, earlier_trials=-1)


def test_a_model_that_never_trades_lends_no_rank_to_those_that_lose():
    idle = Returns(paths=np.zeros((4000, 3)), holdout=np.zeros(500))
    losers = {"a": model(-1e-4, seed=1), "b": model(-1e-4, seed=2)}
    assert compared(losers | {"idle": idle}).overfit.pbo == compared(losers).overfit.pbo


def test_a_path_that_never_trades_earned_nothing_and_does_not_rank_above_those_that_won():
    paths = np.zeros((4000, 5))
    paths[:, :3] = np.random.default_rng(0).normal([-2e-4, -1e-4, 1e-4], 1e-3, size=(4000, 3))
    assert not Returns(paths=paths, holdout=np.zeros(2)).median_path.any()


def test_a_dataset_without_a_model_has_an_empty_board():
    headline = compare.headline(compared({}))
    assert headline["best"] is None
    assert np.isnan(headline["best_dsr"])
