"""Many trials from few fits: the predictions of the stages, traded at other signs, gains, bands and costs.

The trials share their market and their fits, as the trials of a search do. Only the development part is traded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from pipeline import artifacts
from pipeline.datasets import kinds
from pipeline.evaluation import performance
from pipeline.evaluation.evaluation_data import EvaluationData, load_evaluation_data
from pipeline.evaluation.path_metrics import select_path
from pipeline.evaluation.portfolio import trade_predictions
from pipeline.evaluation.trials import Market, Trial, make_trial
from pipeline.stages import baseline, evaluate, featurize, fetch, guard, ingest, label, split, train
from pipeline.validation.folds import Folds

DATASET = "klines"
LINEAR = "linear"  # of the baselines
GAINS = (0.5, 1.0, 2.0, 4.0)
BANDS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
COSTS_BPS = (0.0, 0.1, 0.5, 1.5)
MEASURED, BEST = 100, 30

Params = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """A way to trade a table of predictions."""

    sign: float
    gain: float  # the score times sign and gain is traded
    band: float
    cost_bps: float  # of each side; nothing is charged for shorts


@dataclass(frozen=True, eq=False)
class Source:
    """The predictions of one model on every path of the development part."""

    name: str
    target: str
    paths: Sequence[pd.DataFrame]
    data: Mapping[float, EvaluationData]  # by no-trade band

    @property
    def name_target(self) -> str:
        """The name of the model and of its target."""
        return f"{self.name} {self.target}"


def run_fits(blocks: Params) -> None:
    """Run the stages from `fetch` to the fits of `blocks`, which params.yaml of the current folder holds."""
    for stage in (fetch, ingest, featurize, label, guard, split, baseline):
        stage.main(DATASET)
    for members in blocks["models"].values():
        for model in members:
            train.main(model)


def load_sources(blocks: Params) -> list[Source]:
    """Return the predictions of the models and of the linear baseline of every target in the current folder."""
    folds, rows = Folds.load(artifacts.FOLDS / f"{DATASET}.parquet")
    models = {name: block for members in blocks["models"].values() for name, block in members.items()}
    tables = [
        (name, block["target"], pd.read_parquet(artifacts.OOS / f"{name}.parquet")) for name, block in models.items()
    ]
    for target in blocks["datasets"][DATASET]["targets"]:
        table = pd.read_parquet(artifacts.BASELINES / DATASET / f"{target}.parquet")
        tables.append((LINEAR, target, table[table["baseline"] == LINEAR]))
    return [cut_paths(name, target, table, folds, rows, blocks) for name, target, table in tables]


def cut_paths(name: str, target: str, table: pd.DataFrame, folds: Folds, rows: pd.DataFrame, blocks: Params) -> Source:
    """Return one table of predictions by path."""
    block = {"dataset": DATASET, "target": target}
    symbols = list(rows["symbol"].unique())
    clock, fills = (kinds.import_part(blocks, DATASET, part) for part in ("clock", "fills"))
    data = load_evaluation_data(blocks, block, rows, symbols=symbols, clock=clock, fills=fills)
    free = replace(data, costs=replace(data.costs, borrow_rate=0.0))
    development = evaluate.drop_final_fit(table)
    return Source(
        name=name,
        target=target,
        paths=[select_path(development, data, folds, path) for path in range(folds.n_paths)],
        data={band: replace(free, rules=replace(free.rules, no_trade_band=band)) for band in BANDS},
    )


def list_variants() -> list[Variant]:
    """Return every way in which a table is traded."""
    return [Variant(*one) for one in product((1.0, -1.0), GAINS, BANDS, COSTS_BPS)]


def trade_path(source: Source, variant: Variant, path: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the times (T,) and the net returns (T,) of a variant on one path."""
    predictions = source.paths[path]
    signed = predictions.assign(score=variant.sign * variant.gain * predictions["score"])
    result = trade_predictions(signed, source.data[variant.band], cost_bps=variant.cost_bps)
    return result.time, result.backtest.net


def make_trials(sources: Sequence[Source], market: Market, *, count: int, rng: np.random.Generator) -> list[Trial]:
    """Return `count` trials in random order, each another variant of a source on a random path.

    The first `MEASURED` and the `BEST` with the highest Sharpe ratios are measured in full. Another trial has its own
    Sharpe ratio, and the length and the moments of one of the first, of the same source and if possible of its band.
    """
    variants = list_variants()
    chosen = []
    for i in rng.permutation(len(sources) * len(variants))[:count]:
        source = sources[i // len(variants)]
        chosen.append((source, variants[i % len(variants)], int(rng.integers(len(source.paths)))))
    sharpes = np.array([float(performance.sharpe(trade_path(*one)[1])) for one in chosen])
    best = set(np.argsort(-np.nan_to_num(sharpes, nan=-np.inf))[:BEST].tolist())
    trials: list[Trial] = []
    for i, (source, variant, path) in enumerate(chosen):
        if i < MEASURED or i in best:
            trials.append(record_trial(source, variant, path, market))
        else:
            donor = find_similar(chosen, i)
            sample = replace(trials[donor].sample, sharpe=float(sharpes[i]))
            trials.append(replace(trials[donor], digest=f"{i:016x}", model=f"trial {i}", sample=sample))
    return trials


def find_similar(chosen: Sequence[tuple[Source, Variant, int]], i: int) -> int:
    """Return the first measured trial that trades the same scores as trial i, at the same band if there is one."""
    own = [j for j in range(min(MEASURED, len(chosen))) if chosen[j][0].name_target == chosen[i][0].name_target]
    return next((j for j in own if chosen[j][1].band == chosen[i][1].band), own[0])


def record_trial(source: Source, variant: Variant, path: int, market: Market) -> Trial:
    """Return the trial of a variant on one path, as `evaluate` records it."""
    (time, net), data = trade_path(source, variant, path), source.data[variant.band]
    return make_trial(
        "trial",
        {"model": f"{source.name_target} {variant} {path}", "trading": asdict(variant), "seeds": [path]},
        market,
        target=source.target,
        time_ms=data.to_ms(time),
        net=net,
        bars_per_year=data.bars_per_year,
        risk_free_rate=0.0,
    )
