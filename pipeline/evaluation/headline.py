"""The few figures of each model and dataset that `dvc metrics show` prints side by side within 120 characters.

DVC makes one column of every name that any metrics file has: a name more here is a column more for all. The rest is in
reports, which are no metrics.
"""

from collections.abc import Mapping
from pathlib import Path

from pipeline import artifacts

METRICS = artifacts.TRAINED / "metrics"
DIGITS = 4  # after the point
OF_MODELS = ("ic", "hit_rate", "sharpe_daily", "sharpe", "break_even_bps")
OF_COMPARISONS = {"sharpe_daily": "best_sharpe_daily", "sharpe": "best_sharpe", "dsr": "best_dsr", "pbo": "pbo"}


def name_metrics_file(key: str) -> Path:
    """Return the metrics file of a model, `compare_<dataset>` or `holdout_<family>.<model>`."""
    return METRICS / f"{key}.json"


def select_model_figures(report: Mapping[str, object]) -> dict[str, object]:
    """Return the figures of a model's report, rounded; those that its target does not have are left out."""
    return {name: round_figure(report[name]) for name in OF_MODELS if name in report}


def select_comparison_figures(report: Mapping[str, object]) -> dict[str, object]:
    """Return the figures of the best model of a comparison, its DSR, and the PBO of the choice, rounded."""
    return {name: round_figure(report[source]) for name, source in OF_COMPARISONS.items()}


def round_figure(value: object) -> object:
    """Return a float with DIGITS digits after the point, another value as it is."""
    return round(value, DIGITS) if isinstance(value, float) else value
