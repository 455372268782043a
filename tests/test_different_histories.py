"""Symbols that are listed later, delisted earlier or have a hole: shares of the capital, fits, charts and reports."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline import config
from pipeline.datasets.klines.words import WORDS
from pipeline.evaluation import returns
from pipeline.evaluation.evaluation_data import EvaluationData
from pipeline.evaluation.path_metrics import measure_path
from pipeline.evaluation.portfolio import count_listed, trade_predictions
from pipeline.evaluation.returns import Returns
from pipeline.evaluation.round_trips import list_round_trips
from pipeline.fills import find_fills
from pipeline.leakage.spans import overlaps
from pipeline.models import base, plugins
from pipeline.models.cross_fit import FitTask, ModelSpec, fit_fold, plan_fits
from pipeline.reporting.position_chart import trace_positions
from pipeline.stages import featurize, split
from pipeline.targets import Output
from pipeline.trading import make_terms, trade
from pipeline.trading_rules import Costs, Rules
from pipeline.validation.folds import Folds, make_folds
from tests.data import TRAIN, VALID, make_dataset, plant_samples
from tests.params import PARAMS

BAR = 60_000
FREE = Costs(fee_bps=0.0, slippage_bps=0.0, borrow_rate=0.0)
RULES = Rules(
    delay_bars=0, full_position_std=2.0, no_trade_band=0.0, long_only=False, capital=1e3, max_participation=None
)


def make_bars(symbol: str, minutes: list[int], opens: list[float], *, segment: int) -> pd.DataFrame:
    """Return bars whose close is the next open, in a new segment after each hole."""
    run = np.cumsum(np.diff(minutes, prepend=minutes[0]) > 1)
    times = np.array(minutes, np.int64) * BAR
    bars = pd.DataFrame({"symbol": symbol, "segment": segment + run, "open_time": times, "open": opens})
    return bars.assign(close=[*opens[1:], opens[-1]], volume=1.0, quote_volume=1e9)


def make_data(*bars: pd.DataFrame, costs: Costs = FREE) -> EvaluationData:
    clean = pd.concat(bars, ignore_index=True)
    rows = clean[["segment", "symbol"]].assign(time=clean["open_time"])
    return EvaluationData(
        rows=rows,
        clean=clean,
        y=np.zeros(len(rows), np.float32),
        output=Output(kind="position", names=("position",)),
        target="position",
        is_included=np.ones(len(rows), bool),
        symbols=tuple(sorted(clean["symbol"].unique())),
        bar_ms=BAR,
        bars_per_year=525_600.0,
        rules=RULES,
        costs=costs,
    )


def hold(data: EvaluationData, *, score: float = 1.0) -> pd.DataFrame:
    """Return predictions of one position in every row."""
    return pd.DataFrame({"row": np.arange(len(data.rows)), "position": score, "score": score, "score_std": np.nan})


OLD = make_bars("OLD", list(range(12)), [100.0 * 1.1**i for i in range(12)], segment=0)


@pytest.mark.parametrize(
    ("predicted", "last", "expected"),
    [
        ([[1, 1], [1, 1], [1, 1]], [2, 2], [2, 2, 2]),
        ([[1, 0], [1, 0], [1, 1]], [2, 2], [1, 1, 2]),  # the second is listed later
        ([[1, 1], [1, 0], [1, 0]], [2, 0], [2, 1, 1]),  # and delisted earlier
        ([[1, 1], [1, 0], [1, 1]], [2, 2], [2, 2, 2]),  # a hole
        ([[1, 1], [1, 0], [1, 0]], [2, 2], [2, 2, 2]),  # a hole from which no prediction returns
        ([[1, 0], [1, 0], [1, 0]], [2, 2], [1, 1, 1]),  # never predicted
        ([[1, 0], [0, 0], [0, 1]], [0, 2], [1, 1, 1]),  # one after the other
    ],
)
def test_a_symbol_shares_the_capital_from_its_first_prediction_to_its_last_bar(predicted, last, expected):
    assert count_listed(np.array(predicted, bool), np.array(last)).tolist() == expected


def test_before_a_symbol_is_listed_and_after_it_is_delisted_the_others_have_the_whole_capital():
    short = make_bars("SHORT", [4, 5, 6, 7], [50.0] * 4, segment=1)
    alone, both = make_data(OLD), make_data(OLD, short)
    single, result = (trade_predictions(hold(data), data) for data in (alone, both))
    assert result.sharing.tolist() == [1] * 4 + [2] * 4 + [1] * 4
    np.testing.assert_allclose(result.backtest.net[:4], single.backtest.net[:4])
    np.testing.assert_allclose(result.backtest.net[4:8], single.backtest.net[4:8] / 2)  # SHORT does not move
    np.testing.assert_allclose(result.backtest.net[8:], single.backtest.net[8:])


def test_a_portfolio_with_listings_is_the_account_of_units_and_cash():
    rng = np.random.default_rng(4)
    prices = {
        "OLD": 100 * np.exp(rng.normal(0, 0.02, 30).cumsum()),
        "NEW": 9 * np.exp(rng.normal(0, 0.02, 20).cumsum()),
    }
    old = make_bars("OLD", list(range(30)), prices["OLD"].tolist(), segment=0)
    new = make_bars("NEW", list(range(6, 26)), prices["NEW"].tolist(), segment=1)
    data = make_data(new, old, costs=Costs(fee_bps=8.0, slippage_bps=2.0, borrow_rate=0.0))
    scores = pd.DataFrame({"row": np.arange(50)}).assign(score=rng.uniform(-1, 1, 50), score_std=np.nan)
    result = trade_predictions(scores, data)
    target = {
        "NEW": dict(zip(range(6, 26), scores["score"][:20], strict=True)),
        "OLD": dict(enumerate(scores["score"][20:])),
    }
    cash, units, equity = 1.0, {"NEW": 0.0, "OLD": 0.0}, [1.0]
    for minute in range(30):  # the fill of a row is the next open, or the last close
        count = 1 + (6 <= minute <= 25)
        price = {"OLD": prices["OLD"][min(minute + 1, 29)], "NEW": prices["NEW"][np.clip(minute - 5, 0, 19)]}
        capital = cash + sum(units[name] * price[name] for name in units)
        for name in units:
            wanted = target[name].get(minute, 0.0)
            if minute == (25 if name == "NEW" else 29):
                wanted = 0.0  # the last bar closes
            change = wanted * capital / count / price[name] - units[name]
            units[name] += change
            cash -= change * price[name] + 0.001 * abs(change) * price[name]
        following = {"OLD": prices["OLD"][min(minute + 2, 29)], "NEW": prices["NEW"][np.clip(minute - 4, 0, 19)]}
        equity.append(cash + sum(units[name] * following[name] for name in units))
    np.testing.assert_allclose(np.cumprod(1 + result.backtest.net), equity[1:], rtol=1e-12)


def test_where_sharing_changes_the_value_that_is_held_stays_and_a_weight_beyond_one_is_cut_back():
    fills = find_fills(make_bars("OLD", list(range(4)), [100.0] * 4, segment=0), delay_bars=0)
    pair = replace(
        fills,
        **{name: np.column_stack([getattr(fills, name)] * 2) for name in vars(fills)},
    )
    target = np.array([[0.8, 0.0]] * 4)
    terms = make_terms(fee_bps=0.0, slippage_bps=0.0, no_trade_band=0.9)
    done = trade(np.where(target > 0, 1.0, 0.0), pair, terms, sharing=np.array([1, 2, 2, 2]))
    np.testing.assert_allclose(done.position[:3, 0], [1.0, 1.0, 1.0])
    np.testing.assert_allclose(done.turnover[:3, 0], [1.0, 0.5, 0.0])  # of 200 % of its half, one half is sold
    shrunk = trade(np.where(target > 0, 1.0, 0.0), pair, terms, sharing=np.array([2, 2, 1, 1]))
    np.testing.assert_allclose(shrunk.position[:3, 0], [1.0, 1.0, 0.5])  # the rest is within the band
    np.testing.assert_allclose(shrunk.turnover[1:3, 0], [0.0, 0.0])


def test_an_order_is_limited_by_the_capital_that_a_symbol_has_at_the_time():
    data = make_data(OLD, make_bars("NEW", [6, 7, 8, 9, 10, 11], [50.0] * 6, segment=1))
    data.clean["quote_volume"] = 1000.0
    data = replace(data, rules=replace(RULES, max_participation=0.1))
    alone = replace(make_data(OLD.assign(quote_volume=1000.0)), rules=data.rules)
    result, single = (trade_predictions(hold(each), each) for each in (data, alone))
    np.testing.assert_allclose(result.backtest.position[:6, 1], single.backtest.position[:6, 0])
    assert result.backtest.position[0, 1] == pytest.approx(0.1)  # a tenth of 1,000 of the capital of 1,000


def test_round_trips_add_up_to_the_backtest_where_symbols_come_and_go():
    data = make_data(
        OLD,
        make_bars("SHORT", [3, 4, 5, 6, 7], [50.0, 55.0, 52.0, 51.0, 50.0], segment=1),
        costs=Costs(fee_bps=10.0, slippage_bps=0.0, borrow_rate=0.0),
    )
    scores = hold(data).assign(score=np.resize([1.0, -0.5, 0.7, 0.2, -1.0], len(data.rows)))
    result = trade_predictions(scores, data)
    trips = list_round_trips(result)
    assert trips["net"].sum() == pytest.approx(result.backtest.net.sum(), rel=1e-12)
    for name, column in zip(result.symbols, result.backtest.cost.T, strict=True):
        assert trips.loc[trips["symbol"] == name, "cost"].sum() == pytest.approx(column.sum())


def test_the_exposure_counts_no_symbol_that_is_not_listed():
    data = make_data(OLD, make_bars("NEW", [9, 10, 11], [50.0] * 3, segment=1))
    assert measure_path(hold(data), data).trading["exposure"] == pytest.approx(11 / 12)  # the last bar closes


def test_a_symbol_in_a_hole_keeps_its_share():
    data = make_data(OLD, make_bars("HOLE", [0, 1, 2, 8, 9, 10, 11], [50.0] * 7, segment=1))
    assert trade_predictions(hold(data), data).sharing.tolist() == [2] * 12


def test_a_chart_of_a_symbol_shows_its_own_history():
    first = make_bars("ABC", [4, 5, 6, 7], [50.0, 51.0, 52.0, 53.0], segment=1)
    data = make_data(first, OLD)
    symbol, history = trace_positions(hold(data), data)
    assert symbol == "ABC"
    assert (history.time[:-1] // BAR).tolist() == [4, 5, 6, 7]
    assert np.isfinite(history.buy_and_hold).all()
    assert history.buy_and_hold[0] == history.equity[0] == 1.0


def make_late_folds(method: str, *, first: int) -> tuple[Folds, np.ndarray]:
    """Return folds of four groups of ten rows each of one symbol, and of another that begins with row `first`."""
    time = np.concatenate([np.arange(40), np.arange(first, 40)]).astype(np.int64) * BAR
    groups = {"groups": 4, "test_groups": 2, "train_groups": 1}
    return make_folds(time, time, method=method, **groups, embargo_bars=0, holdout_pct=0.0), np.arange(len(time)) >= 40


def test_a_split_that_a_late_symbol_cannot_learn_from_is_named():
    folds, is_late = make_late_folds("cpcv", first=25)
    with pytest.raises(ValueError, match="split 5: no train row is of a symbol and class that the model learns from"):
        list(plan_fits(folds, "late", [1], is_late, is_late, valid_pct=0.2))


def test_a_split_whose_groups_lack_a_symbol_has_nothing_to_predict():
    folds, is_late = make_late_folds("purged_kfold", first=15)
    tasks = list(plan_fits(folds, "late", [1], is_late, is_late, valid_pct=0.2))
    assert [len(task.predicted) for task in tasks] == [0, 5, 10, 10, 0]  # and no holdout


@pytest.mark.parametrize("model", ["lightgbm", "xgboost_barrier", "marl"])
def test_a_fit_that_predicts_nothing_has_an_empty_table(model: str, tmp_path):
    family, block, name = config.find_model(PARAMS, model)
    kind = PARAMS["datasets"]["klines"]["targets"][block["target"]]["kind"]
    shared = PARAMS[family] | ({"num_boost_round": 2} if family == "trees" else {"learning_starts": 200})
    if family == "agents":
        block = {**block, "hyperparameters": block["hyperparameters"] | {"num_episodes": 16}}
    data = make_dataset(plant_samples(kind, seed=1), kind=kind)
    market = plugins.find_plugin_of(config.ModelBlock(family, block, name)).read_market(PARAMS, "klines")
    signature = base.Signature(columns=data.samples.columns, output=data.target.output)
    spec = ModelSpec(config.ModelBlock(family, block, name), signature, shared, market)
    task = FitTask(split=0, train=TRAIN, valid=VALID, predicted=np.empty(0, np.int64), seed=1, fit_seed=1)
    fit = fit_fold(task, spec, data, folder=tmp_path)
    assert (len(fit.out_of_sample), fit.rows["predicted"], fit.evaluation) == (0, 0, {})
    assert {"row", "score", "score_std", *data.target.output.names} <= set(fit.out_of_sample)


def test_rows_overlap_nothing_where_nothing_is_predicted():
    time = np.arange(3, dtype=np.int64)
    assert not overlaps(time, time, rows=np.arange(3), others=np.empty(0, np.int64), extension_ms=0).any()


def test_the_report_of_split_names_the_groups_in_which_a_symbol_has_no_row():
    folds, is_late = make_late_folds("cpcv", first=15)
    symbol = pd.Series(pd.Categorical(np.where(is_late, "LATE", "OLD")))
    assert split.summarize_symbols(folds, symbol) == {
        "LATE": {"rows_by_group": [0, 5, 10, 10], "groups_without_rows": [0]},
        "OLD": {"rows_by_group": [10] * 4, "groups_without_rows": []},
    }


def test_the_report_of_features_says_how_many_rows_the_holes_of_a_symbol_cost():
    segments = pd.DataFrame({"segment": [3, 4, 5], "bars": [20, 5, 10]})
    assert featurize.count_restarts(segments, {3: 7, 4: 5, 5: 7}, words=WORDS) == {
        "count": 2,
        "rows": 12,
        "note": "12 of 35 bars are the warm-up of the 2 segments after the first",
    }
    assert featurize.count_restarts(segments[:1], {3: 7}, words=WORDS)["rows"] == 0


def test_models_of_symbols_that_are_never_listed_together_cannot_be_compared():
    one, two = (Returns(np.arange(3) + shift, np.zeros((3, 1)), np.zeros(1)) for shift in (0, 5))
    with pytest.raises(ValueError, match="compare models of symbols that are listed at the same time"):
        returns.align_models({"early": one, "late": two})
