from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mean_pinball_loss, r2_score

from pipeline import artifacts
from pipeline.evaluation import forecast, path_metrics, returns
from pipeline.evaluation.evaluation_data import EvaluationData
from pipeline.evaluation.portfolio import size_positions, trade_predictions
from pipeline.evaluation.trainings import Training, read_history
from pipeline.models.predictions import FINAL, make_predictions
from pipeline.reporting import position_chart
from pipeline.samples import make_keys
from pipeline.stages import evaluate
from pipeline.targets import Output, Target
from pipeline.trading_rules import Costs, Rules
from pipeline.validation import folds
from tests.data import OUTPUTS, make_target

MINUTE = 60_000
AUDIT = {"permutation_importance": {"loss": "squared_error", "importances": {"x": 0.1, "z": -0.1}}, "diagnosis": {}}


def known(y, move, *, segment=None, minutes=None, symbols=1, kind="return"):
    """Rows whose orders earn `move`: the bars of each symbol open accordingly, two more fill the last ones."""
    count = len(y)
    rows = make_keys(np.int32(segment or [0] * count), np.int64(minutes or range(count)) * MINUTE)
    symbol = np.array(["AAA", "BBB"])[rows["segment"] if symbols > 1 else [0] * count]
    rows = rows.assign(symbol=pd.Categorical(symbol))
    return EvaluationData(
        rows=rows,
        clean=pd.concat([make_bars(part, np.array(move)[part.index]) for _, part in rows.groupby("segment")]),
        y=np.array(y),
        output=OUTPUTS[kind],
        target=kind,
        is_included=np.ones(count, bool),
        symbols=("AAA", "BBB")[:symbols],
        bar_ms=MINUTE,
        bars_per_year=525_600.0,
        rules=Rules(
            delay_bars=0, full_position_std=1.0, no_trade_band=0.0, long_only=False, capital=1.0, max_participation=1.0
        ),
        costs=Costs(fee_bps=10.0, slippage_bps=0.0, borrow_rate=0.0),
    )


def make_bars(rows, move):
    """The bars of a segment's rows and two after them, without missing ones."""
    first, last = rows["time"].min(), rows["time"].max()
    time = np.arange(first, last + 3 * MINUTE, MINUTE)
    own = pd.Series(move, index=rows["time"]).reindex(time[:-2], fill_value=0.0)
    opens = 100 * np.concatenate([[1.0, 1.0], np.cumprod(1 + own.to_numpy())])[: len(time)]
    bars = pd.DataFrame({"symbol": str(rows["symbol"].iloc[0]), "segment": rows["segment"].iloc[0]}, range(len(time)))
    prices = dict.fromkeys(("open", "high", "low", "close"), opens)
    return bars.assign(**prices, open_time=time, volume=1.0, quote_volume=1e9)


def predict(score, data, split=0, rows=None):
    score = np.array(score)
    rows, target = np.arange(len(score)) if rows is None else np.array(rows), make_target("return")
    return make_predictions(split, data.rows, rows, prediction=score[:, None], target=target, score_std=1.0)


def test_trading_pays_for_every_change_and_for_closing():
    data = known([0.0] * 3, [0.01, 0.02, -0.03])
    result = trade_predictions(predict([1.0, 1.0, -1.0], data), data)
    assert result.time.tolist() == [0, MINUTE, 2 * MINUTE]
    closed = 1 - 0.03  # short 1 at the fill, bought back after a fall of 3 %
    assert result.backtest.net == pytest.approx([0.01 - 0.001, 0.02, 0.03 - 0.002 - 0.001 * closed], abs=1e-5)
    assert result.turnover == pytest.approx([1.0, 0.0, 2.0 + closed], abs=3e-3)


def test_a_position_is_closed_where_a_row_is_left_out():
    data = known([0.0] * 4, [0.0] * 4)
    result = trade_predictions(predict([1.0] * 3, data, rows=[0, 1, 3]), data)
    assert result.turnover == pytest.approx([1.0, 0.0, 1.0, 2.0], abs=2e-3)


def test_a_score_is_traded_in_units_of_its_spread():
    data = known([0.0] * 3, [0.0] * 3)
    halved = replace(data, rules=replace(data.rules, full_position_std=2.0))
    predictions = predict([0.1, -0.3, 0.9], data).assign(score_std=0.2)
    assert size_positions(predictions, halved).tolist() == pytest.approx([0.25, -0.75, 1.0])
    idle = predictions.assign(score_std=np.nan)  # a score that never varies
    assert size_positions(idle, halved).tolist() == [0.0] * 3
    held = replace(halved, output=OUTPUTS["position"])
    assert size_positions(predictions, held).tolist() == pytest.approx([0.1, -0.3, 0.9])


def test_two_symbols_share_the_capital():
    both = known([0.0] * 4, [0.01, 0.01, -0.02, 0.0], segment=[0, 0, 1, 1], minutes=[0, 1, 0, 1], symbols=2)
    result = trade_predictions(predict([1.0, 1.0, 1.0, 1.0], both), both)
    assert result.time.tolist() == [0, MINUTE]
    assert result.backtest.net == pytest.approx([(0.01 - 0.02) / 2 - 0.001, 0.01 / 2 - 0.001], abs=3e-5)
    assert result.backtest.turnover.shape == (2, 2)


def test_a_model_that_never_trades_has_figures_that_are_nan_with_their_reason():
    data = known([1.0, -1.0, 2.0], [0.1, 0.2, 0.1])
    path = path_metrics.measure_path(predict([0.0, 0.0, 0.0], data), data)
    assert np.isnan(path.trading["sharpe"])
    assert path.reasons["sharpe"] == "no trade: the largest target position is 0, the no-trade band 0"
    assert path.reasons["ic"] == "the prediction never varies"


def test_forecasts_are_measured_on_labeled_rows_and_all_rows_are_traded():
    data = known([1.0, -1.0, 2.0, np.nan], [0.1, 0.2, 0.1, 0.05])
    halted = replace(data, rows=data.rows.assign(is_labeled=[True, True, True, False]))
    path = path_metrics.measure_path(predict([0.5, -0.5, 1.0, 1.0], halted), halted)
    assert path.forecast["ic"] == pytest.approx(np.corrcoef([1.0, -1.0, 2.0], [0.5, -0.5, 1.0])[0, 1])
    assert path.confusion.sum() == 3
    assert path.net == pytest.approx([0.05 - 0.0005, -0.1 - 0.001, 0.1 - 0.0015, 0.05 - 0.001], abs=2e-4)


def test_in_over_out_is_nan_with_its_reason_where_nothing_is_earned_out_of_sample():
    splits = pd.DataFrame({"in_sample": [2.0, 4.0], "out_of_sample": [1.0, 2.0]})
    assert path_metrics.divide_in_by_out(splits) == (2.0, None)
    ratio, reason = path_metrics.divide_in_by_out(splits * [1, -1])
    assert np.isnan(ratio)
    assert "not positive" in reason


def test_stationarity_is_the_coefficient_of_variation_of_the_sharpe_over_splits():
    splits = pd.DataFrame({"in_sample": [2.0, 4.0, 3.0], "out_of_sample": [1.0, 2.0, 3.0]})
    assert path_metrics.measure_stationarity(splits) == (pytest.approx(0.5), None)
    for changed, why in (
        (splits * [1, -1], "not positive"),
        (splits * np.nan, "fewer than two splits trade"),
        (splits[:1], "fewer than two splits trade"),
    ):
        value, reason = path_metrics.measure_stationarity(changed)
        assert np.isnan(value)
        assert why in reason


def test_seeds_are_an_axis_like_paths():
    minutes = np.arange(400)
    cut = folds.cpcv(
        minutes * MINUTE, (minutes + 1) * MINUTE, groups=4, test_groups=2, embargo_pct=0.0, holdout_pct=0.0
    )
    rng = np.random.default_rng(0)
    data = known(rng.normal(size=400), 1e-3 * rng.normal(size=400))
    tables = [
        predict(rng.uniform(-1, 1, size=len(cut.test(split))), data, split=split, rows=cut.test(split)).assign(
            seed=seed
        )
        for seed in (5, 3)
        for split in range(cut.n_splits)
    ]
    result = path_metrics.measure_predictions(pd.concat(tables), data, cut)
    assert result.seeds.tolist() == [3] * 3 + [5] * 3
    alone = path_metrics.measure_predictions(pd.concat(tables[:6]), data, cut)  # of seed 5
    for path in range(3):
        np.testing.assert_array_equal(result.paths[3 + path].net, alone.paths[path].net)
    chosen = path_metrics.select_path(pd.concat(tables), data, cut, path=4)
    assert set(chosen["seed"]) == {5}
    assert len(path_metrics.compare_in_and_out_of_sample(pd.concat(tables), pd.concat(tables), data)) == 12


def test_bins_hold_equally_many_rows_in_order_of_the_prediction():
    predicted, actual, error = path_metrics.bin_calibration(np.arange(20.0)[::-1], np.arange(20.0)[::-1] * 2, bins=10)
    assert predicted.tolist() == [0.5 + 2 * k for k in range(10)]
    assert actual.tolist() == [1.0 + 4 * k for k in range(10)]
    assert error == pytest.approx([1 / np.sqrt(2)] * 10)


def test_net_returns_are_written_path_by_path():
    data = known([1.0, -1.0], [0.1, 0.2])
    path = path_metrics.measure_path(predict([0.5, -0.5], data), data)
    earned = path.time, path.net
    table = returns.make_table([earned, earned], np.array([7, 8]))
    assert table.groupby(["path", "seed"]).size().to_dict() == {(0, 7): 2, (1, 8): 2}


def test_bars_without_a_row_earn_nothing_and_count():
    data = known([0.0] * 3, [0.1, 0.2, 0.3], minutes=[0, 1, 4])
    result = trade_predictions(predict([1.0, 0.5, 1.0], data), data)
    assert (result.time // MINUTE).tolist() == [0, 1, 2, 3, 4]
    assert result.backtest.net[2:4] == pytest.approx([-0.0005, 0.0], abs=1e-4)  # the order of bar 2 closes
    assert result.is_predicted.tolist() == [True, True, False, False, True]
    path = path_metrics.measure_path(predict([1.0, 0.5, 1.0], data), data)
    assert path.trading["turnover"] == pytest.approx(result.turnover.sum() / 5)
    assert path.trading["exposure"] == pytest.approx(2.5 / 3, abs=1e-3)


def test_the_confusion_of_a_number_counts_the_sides_of_neutral():
    data = known([1.0, 1.0, -1.0, -2.0], [0.0] * 4)
    path = path_metrics.measure_path(predict([0.5, -0.5, 0.5, -0.5], data), data)
    assert path.confusion.tolist() == [[1, 1], [1, 1]]


def test_one_path_alone_has_no_spread_and_the_headline_says_why():
    data = known([1.0, -1.0, 0.5], [0.1, 0.2, 0.1])
    path = path_metrics.measure_path(predict([0.5, -0.5, 0.2], data), data)
    splits = pd.DataFrame({"in_sample": [2.0, 2.0], "out_of_sample": [1.0, 1.0]})
    alone, both = (path_metrics.ModelResult([path] * count, np.zeros(count)) for count in (1, 2))
    headline = evaluate.make_trading_headline(alone, splits)
    assert np.isnan(headline["sharpe_std"])
    days = "path 0: no sharpe_daily, fewer than 2 days"
    assert headline["reason"] == f"{days}; no sharpe_std, fewer than two paths trade"
    assert evaluate.make_trading_headline(both, splits)["reason"] == f"{days}; {days.replace('0', '1')}"


def test_traced_positions_are_those_of_the_backtest_and_flat_where_a_row_is_missing():
    left_out = known([0.0] * 5, [0.01, 0.02, 0.0, 0.0, 0.03])
    scores = predict([1.0, 0.5, -1.0], left_out, rows=[0, 1, 4])
    symbol, done = position_chart.trace_positions(scores, left_out)
    result = trade_predictions(scores, left_out)
    assert symbol == "AAA"
    assert (done.time // MINUTE).tolist() == [0, 1, 2, 3, 4, 5]
    assert done.position.tolist() == result.backtest.position[:, 0].tolist() == [1.0, 0.5, 0.0, 0.0, -1.0]
    assert done.price == pytest.approx([100.0, 100.0, 101.0, 103.02, 103.02, 103.02])
    assert done.change.tolist() == [1.0, -0.5, -0.5, 0.0, -1.0, 1.0]
    assert done.equity == pytest.approx(np.concatenate([[1.0], np.cumprod(1 + result.backtest.net)]))


def test_a_position_that_drifts_is_no_trade():
    data = known([0.0] * 3, [0.1, 0.1, 0.0])
    data = replace(data, rules=replace(data.rules, no_trade_band=0.3))
    _, done = position_chart.trace_positions(predict([0.5, 0.5, 0.5], data), data)
    assert done.position[1] > 0.5
    assert done.change[:2].tolist() == [0.5, 0.0]


def test_of_two_symbols_the_positions_of_the_first_are_traced():
    both = known([0.0] * 4, [0.01, 0.01, -0.02, 0.0], segment=[0, 0, 1, 1], minutes=[0, 1, 0, 1], symbols=2)
    symbol, done = position_chart.trace_positions(predict([1.0, -1.0, 0.3, 0.4], both), both)
    assert symbol == "AAA"
    assert done.position.tolist() == [1.0, -1.0]
    assert done.price == pytest.approx([100.0, 100.0, 101.0])


@pytest.mark.parametrize("size", [0.0, 1.0], ids=["idle", "busy"])
def test_pictures_have_the_same_bytes_each_time(size, tmp_path, monkeypatch):
    rng, minutes = np.random.default_rng(3), np.arange(1200)
    cut = folds.cpcv(
        minutes * MINUTE, (minutes + 1) * MINUTE, groups=4, test_groups=2, embargo_pct=0.01, holdout_pct=0.3
    )
    tested = {split: cut.test(split) for split in range(cut.n_splits)} | {FINAL: cut.holdout()}
    data = known(rng.normal(size=1200), 1e-3 * rng.normal(size=1200))
    scores = {split: size * rng.uniform(-1, 1, size=len(rows)) for split, rows in tested.items()}
    oos = pd.concat(predict(scores[split], data, split=split, rows=rows) for split, rows in tested.items())
    predictions = evaluate.drop_final_fit(oos)
    history = {
        "0": [
            {"iteration": 1, "train_loss": 1.0, "valid_loss": 1.0},
            {"iteration": 2, "train_loss": 0.5, "valid_loss": 0.9},
        ]
    }
    drawn = []
    for folder in ("first", "second"):
        monkeypatch.setattr(artifacts, "PLOTS", tmp_path / folder)
        result = path_metrics.measure_predictions(predictions, data, cut)
        evaluate.draw_equity("a", result, data)
        evaluate.draw_positions("a", path_metrics.select_path(predictions, data, cut, path=1), data, number=1)
        evaluate.draw_confusion("a", result, data)
        evaluate.draw_calibration("a", path_metrics.select_path(predictions, data, cut, path=0), data, number=0)
        evaluate.draw_training("a", Training(oos, oos, history, importances={"gain": {"x": 1.0}}, audit=AUDIT))
        drawn.append({file.name: file.read_bytes() for file in (tmp_path / folder / "a").iterdir()})
    names = ["calibration", "confusion", "equity", "importances", "learning_curves", "positions"]
    assert sorted(drawn[0]) == [f"{name}.png" for name in names]
    assert drawn[0] == drawn[1]


def test_a_history_is_read_back_as_the_fits_wrote_it(tmp_path):
    fits = {
        "10": [{"iteration": 1, "valid_loss": 1 / 3}],
        "final": [{"iteration": 1, "valid_loss": 0.1, "grad_norm": 1e-17}],
    }
    rows = [{"seed": 3, "split": split, **entry} for split, entries in fits.items() for entry in entries]
    pd.DataFrame(rows).to_csv(tmp_path / "a.csv", index=False)
    assert read_history(tmp_path / "a.csv") == fits
    rows.append({"seed": 4, "split": "10", "iteration": 1, "valid_loss": 2.0})
    pd.DataFrame(rows).to_csv(tmp_path / "a.csv", index=False)
    assert list(read_history(tmp_path / "a.csv")) == ["3-10", "3-final", "4-10"]


def test_a_forecast_without_a_score_is_measured_and_not_traded():
    data = known([1.0, 2.0, 3.0, 4.0], [0.1] * 4, kind="volatility")
    table = make_predictions(
        0, data.rows, np.arange(4), prediction=np.array([[1.0], [2.5], [2.0], [4.5]]), target=make_target("volatility")
    )
    path = path_metrics.measure_path(table, data)
    assert path.trading == {}
    assert path.confusion is None
    assert path.forecast["ic"] == pytest.approx(np.corrcoef([1, 2, 3, 4], [1, 2.5, 2, 4.5])[0, 1])
    assert "directional_accuracy" not in path.forecast
    result = path_metrics.ModelResult([path, path], np.zeros(2))
    headline = evaluate.make_forecast_headline(result, result)
    assert headline["reason"] is None
    assert "hit_rate" not in headline
    assert not returns.make_table([(path.time, path.net)], np.zeros(1)).size


def test_a_forecast_of_several_horizons_is_measured_over_each_and_traded_by_the_last():
    y = np.array([[1.0, 0.5], [2.0, -1.5], [-1.0, 1.0], [0.0, 2.0]])
    prediction = np.array([[0.3, 0.1], [0.1, -0.4], [0.2, 0.2], [0.4, 0.3]])
    target = Target(
        name="a",
        horizon_bars=5,
        output=Output(kind="horizons", names=("return_ahead_1", "return_ahead_5"), horizons=(1, 5)),
    )
    data = replace(known(y[:, 1], [0.1] * 4), y_by_horizon=y, output=target.output)
    alone = path_metrics.measure_path(
        make_predictions(0, data.rows, np.arange(4), prediction=prediction[:, 1:], target=make_target("return")),
        known(y[:, 1], [0.1] * 4),
    )
    path = path_metrics.measure_path(
        make_predictions(0, data.rows, np.arange(4), prediction=prediction, target=target), data
    )
    own = {f"{key}_{name}": path.forecast.pop(f"{key}_{name}") for name in target.output.names for key in ("ic", "r2")}
    assert path.forecast == pytest.approx(alone.forecast)
    assert path.trading == pytest.approx(alone.trading, nan_ok=True)
    assert own["ic_return_ahead_1"] == pytest.approx(np.corrcoef(y[:, 0], prediction[:, 0])[0, 1], abs=1e-6)
    assert own["r2_return_ahead_1"] == pytest.approx(r2_score(y[:, 0], prediction[:, 0]), abs=1e-6)
    assert [own["ic_return_ahead_5"], own["r2_return_ahead_5"]] == [path.forecast["ic"], path.forecast["r2"]]


def test_predicted_quantiles_are_measured_by_their_loss_and_coverage():
    rng = np.random.default_rng(0)
    y, levels = rng.normal(size=500), (0.1, 0.5, 0.9)
    quantiles = np.quantile(y, levels) + 0.1 * rng.normal(size=(500, 3))
    output = Output(kind="quantiles", names=("q10", "q50", "q90"), levels=levels)
    metrics, reasons = forecast.measure_forecast(y, quantiles, output)
    losses = [mean_pinball_loss(y, quantiles[:, i], alpha=level) for i, level in enumerate(levels)]
    assert metrics["pinball_loss"] == pytest.approx(np.mean(losses))
    assert metrics["coverage_q10"] == pytest.approx(np.mean(y <= quantiles[:, 0]))
    assert metrics["ic"] == pytest.approx(np.corrcoef(y, quantiles[:, 1])[0, 1])
    assert metrics["crossing_share"] == np.mean((np.diff(quantiles, axis=1) < 0).any(axis=1))
    assert reasons == {}
    share, error = forecast.measure_coverage(y, quantiles)
    assert share.tolist() == [metrics[f"coverage_{name}"] for name in output.names]
    assert error == pytest.approx((y[:, None] <= quantiles).std(axis=0) / np.sqrt(len(y)))


def test_a_model_of_one_symbol_is_measured_on_its_rows_alone():
    both = known([0.0] * 8, [0.0] * 8, segment=[0] * 4 + [1] * 4, minutes=[0, 1, 2, 3] * 2, symbols=2)
    alone = replace(both, is_included=both.rows["symbol"].eq("BBB").to_numpy(), symbols=1)
    time = both.rows["time"].to_numpy()
    cut = folds.cpcv(time, time + MINUTE, groups=2, test_groups=1, embargo_pct=0.0, holdout_pct=0.0)
    assert path_metrics.select_predicted(alone, cut).tolist() == [4, 5, 6, 7]
