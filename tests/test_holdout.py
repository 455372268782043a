"""The sealed holdout: nothing shows its labels but the stage that opens it, which is off by default."""

import numpy as np
import pandas as pd
import pytest

from pipeline import artifacts
from pipeline.config import ParamsError
from pipeline.evaluation import overfitting
from pipeline.evaluation.holdout import METRICS, assess_holdout, collect_metrics
from pipeline.evaluation.ledger import Ledger
from pipeline.evaluation.path_metrics import PathResult
from pipeline.evaluation.trials import Market, Prices, Trial, make_trial, render_lines
from pipeline.stages import holdout


def make_look(net: np.ndarray, *, model: str = "a") -> Trial:
    """Return the look that net returns of successive minutes are."""
    return make_trial(
        "look",
        {"model": model, "seeds": [1]},
        Market({"BTCUSDT": Prices(0, 0, "abcdef")}),
        target="return_5",
        time_ms=60_000 * np.arange(len(net)),
        net=net,
        bars_per_year=525_600.0,
        risk_free_rate=0.0,
    )


def draw_look(seed: int, *, model: str = "a") -> Trial:
    return make_look(np.random.default_rng(seed).normal(1e-4, 1e-3, size=500), model=model)


def test_one_look_is_not_deflated_and_each_further_one_lowers_its_probability():
    looks = [draw_look(seed, model=str(seed)) for seed in range(20)]
    alone = assess_holdout(looks[0], [], listed=1)
    assert alone["looks"] == 1
    assert alone["psr"] == alone["psr_deflated"] == overfitting.probabilistic_sharpe(**looks[0].sample.moments)
    found = [assess_holdout(looks[0], looks[1:count], listed=1)["psr_deflated"] for count in (1, 2, 5, 20)]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 4
    known = {"trial_sharpes": [one.sample.sharpe for one in looks], "trial_errors": [one.sample.error for one in looks]}
    assert found[-1] == overfitting.deflate(**looks[0].sample.moments, **known, trials=20).dsr


def test_models_that_are_listed_together_are_looks_before_any_is_harvested():
    found = assess_holdout(draw_look(0), [], listed=3)
    assert found["looks"] == 3
    assert found["psr_deflated"] < found["psr"]


def make_result(net: list[float], *, reasons: dict[str, str]) -> PathResult:
    nan = float("nan")
    forecast = {"ic": nan, "rank_ic": 0.1, "r2": 0.0}
    trading = {name: nan if name in reasons else 0.5 for name in METRICS if name not in forecast}
    undefined = {"ic": "it never varies", **reasons}
    return PathResult(forecast, None, trading, undefined, np.arange(len(net)), np.array(net), pd.DataFrame())


def test_a_metric_that_is_undefined_is_nan_with_its_reason_and_others_are_not_mentioned():
    net = [0.0] * 9
    result = make_result(net, reasons={"sharpe": "no trade", "calmar": "no trade"})
    metrics = collect_metrics(result, make_look(np.array(net)), [], listed=1)
    shown = ["looks", "psr", "psr_deflated", "expected_max_sharpe", "observations", "bars", "trial", "reason"]
    assert list(metrics) == [*METRICS, *shown]
    assert np.isnan([metrics["ic"], metrics["sharpe"], metrics["psr"]]).all()
    assert metrics["reason"] == "no ic, it never varies; no sharpe, no trade; no psr, the Sharpe ratio is undefined"
    assert (metrics["rank_ic"], metrics["bars"]) == (0.1, 9)
    few = make_look(np.concatenate([np.zeros(400), [1e-3, 2e-3]]))
    assert "independent traded observations, 30 needed" in str(collect_metrics(result, few, [], listed=1)["reason"])


@pytest.mark.parametrize("name", ["lightgbm", "trees.", ".lightgbm", "models.trees.lightgbm", ""])
def test_an_item_that_is_no_family_and_model_is_one_line(name):
    with pytest.raises(ParamsError) as refused:
        holdout.check_names(models=["nets.lstm", name])
    assert (
        str(refused.value)
        == f"params.yaml: holdout.models has {name!r}; it must be <family>.<model>, such as nets.lstm"
    )


def test_the_holdout_stays_closed_while_the_ledger_lacks_earlier_looks(tmp_path, monkeypatch):
    folder = tmp_path / artifacts.LOOKS
    folder.mkdir(parents=True)
    (folder / "trees.b.jsonl").write_text(render_lines([draw_look(1, model="b").make_line()]))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="lacks 1 earlier looks, such as that at b; run .* harvest` first"):
        holdout.check_is_harvested(Ledger([], []), listed=["a"])
    holdout.check_is_harvested(Ledger([], []), listed=["a", "b"])
    holdout.check_is_harvested(Ledger([], [draw_look(1, model="b")]), listed=["a"])
