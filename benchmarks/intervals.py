"""Measure the coverage of conformal intervals on real bars: `python benchmarks/intervals.py [bars.parquet]`, minutes.

The block `interval` of params.yaml is fitted walk-forward: each part of the time is predicted by a fit on all parts
before it. Printed are coverage and mean width of each part, of the fixed and of the adaptive interval, for each choice
of the calibration rows.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from pipeline.evaluation.intervals import adapt_margins, measure_interval, measure_scores
from pipeline.features import engine
from pipeline.labels import describe_target, make_labels
from pipeline.market.bars import number_segments
from pipeline.models import plugins
from pipeline.models.base import Signature
from pipeline.reporting import markdown
from pipeline.samples import Samples
from pipeline.validation.folds import Folds, make_folds

ROOT = Path(__file__).resolve().parents[1]
SLICE = ROOT.parent / "shared" / "data" / "BTCUSDT_1m_2024-01-01_90d.parquet"
FOLDS: dict[str, Any] = {
    "method": "walk_forward_expanding",
    "groups": 8,
    "test_groups": 1,
    "train_groups": 2,
    "holdout_pct": 0.0,
}
EMBARGO_BARS = 469
HEAD = ("calibration rows", "part", "rows", "coverage", "verdict", "width", "adaptive coverage", "adaptive width")


def load_samples(file: Path, params: dict[str, Any], target: dict[str, Any]) -> Samples:
    """Return the labeled rows of a file of bars with the columns and the target of params."""
    bars = pd.read_parquet(file).assign(symbol="REAL")
    bars = bars.assign(segment=number_segments(bars))
    features = engine.compute(bars, **params["datasets"]["klines"]["features"])
    labels = make_labels(bars, target).table
    found = pd.Series(np.arange(len(features.rows)), index=features.rows).reindex(labels["row"])
    labels, place = labels[found.notna().to_numpy()], found.dropna().astype(int).to_numpy()
    time, end, segment, y = (labels[name].to_numpy() for name in ("time", "label_end", "segment", "y"))
    return Samples(time, end, segment, features.x[place], features.columns, y)


def measure_parts(samples: Samples, folds: Folds, params: dict[str, Any], rows: str) -> Iterator[tuple[str, ...]]:
    """Yield a line of the table for each part of the time, and one of all."""
    block = params["disabled_models"]["composites"]["interval"]
    output = describe_target(params["disabled_targets"][block["target"]], name="y", path="y").output
    block = block | {"hyperparameters": block["hyperparameters"] | {"calibration_rows": rows}}
    nominal, found = output.levels[-1] - output.levels[0], []
    for split in range(folds.n_splits):
        model = plugins.build("composites", block, Signature(samples.columns, output), shared={}, seed=split)
        train, valid = folds.split_validation(folds.train(split), params["train"]["valid_pct"])
        model.fit(samples, train, valid)
        test = folds.test(split)
        low, _, high = model.predict_rows(samples, test).astype(np.float64).T
        scores = measure_scores(samples.y[test].astype(np.float64), low, high)
        settings = {"gamma": params["forecasts"]["adaptive_gamma"], "window": params["forecasts"]["adaptive_window"]}
        known = {"miscoverage": 1 - nominal, **settings}
        margin = adapt_margins(scores, samples.time[test], samples.label_end[test], **known)
        found.append((test, low, high, low - margin, high + margin))
        yield (rows, str(split), *describe_part(samples, *found[-1], nominal=nominal))
    yield (rows, "all", *describe_part(samples, *map(np.concatenate, zip(*found, strict=True)), nominal=nominal))


def describe_part(samples: Samples, test: np.ndarray, *ends: np.ndarray, nominal: float) -> tuple[str, ...]:
    """Return the cells of some rows: of the fixed interval, and of the adaptive one."""
    known: dict[str, Any] = {"nominal": nominal, "confidence": 0.95}
    y = samples.y[test].astype(np.float64)
    instant = np.arange(len(test))
    fixed, adaptive = (measure_interval(y, *pair, instant=instant, **known) for pair in (ends[:2], ends[2:]))
    coverage = f"{fixed['coverage']:.3f} [{fixed['low']:.3f}, {fixed['high']:.3f}]"
    widths = f"{fixed['width']:.2f}", f"{adaptive['coverage']:.3f}", f"{adaptive['width']:.2f}"
    return f"{len(test):,}", coverage, str(fixed["verdict"]), *widths


def main() -> None:
    """Print the table."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else SLICE
    samples = load_samples(file, params, params["disabled_targets"]["return_5_interval"])
    folds = make_folds(samples.time, samples.label_end, embargo_bars=EMBARGO_BARS, **FOLDS)
    lines = [line for rows in ("valid", "later_half") for line in measure_parts(samples, folds, params, rows)]
    sys.stdout.write(markdown.render_table(HEAD, lines) + "\n")


if __name__ == "__main__":
    main()
