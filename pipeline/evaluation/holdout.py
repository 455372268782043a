"""The holdout of one model: the metrics of its final fit on rows whose labels no other stage measures."""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.evaluation import overfitting
from pipeline.evaluation.path_metrics import PathResult
from pipeline.evaluation.sharpe_sample import MIN_OBSERVATIONS
from pipeline.evaluation.trials import Trial

METRICS = (  # of `measure_path`
    *("ic", "rank_ic", "sharpe_daily", "sharpe", "max_drawdown", "net_return"),
    *("turnover", "break_even_bps", "round_trips", "gap_return"),
)


def collect_metrics(result: PathResult, look: Trial, others: Sequence[Trial], *, listed: int) -> dict[str, object]:
    """Return the metrics of a final fit on the holdout, and why some are undefined.

    The Sharpe ratios are annualized, the net return is not. `others` are the looks of the ledger that saw the same
    market. At least `listed` looks were made, those of the present run.
    """
    found, assessed = {**result.forecast, **result.trading}, assess_holdout(look, others, listed=listed)
    reasons = {name: result.reasons[name] for name in METRICS if name in result.reasons} | explain_undefined(look)
    explained = "; ".join(f"no {name}, {reason}" for name, reason in reasons.items())
    return {
        **{name: found[name] for name in METRICS},
        **assessed,
        "observations": look.sample.observations,
        "bars": look.sample.bars,
        "trial": look.digest,
        "reason": explained or None,
    }


def assess_holdout(look: Trial, others: Sequence[Trial], *, listed: int) -> Mapping[str, float]:
    """Return the PSR of a look, the same deflated by the number of looks, and what that is made of."""
    looks, sample = [look, *others], look.sample
    count = float(max(len(looks), listed))
    if not sample.is_sufficient:
        return {"looks": count, **dict.fromkeys(("psr", "psr_deflated", "expected_max_sharpe"), np.nan)}
    deflated = overfitting.deflate(
        **sample.moments,
        trial_sharpes=[one.sample.sharpe for one in looks],
        trial_errors=[one.sample.error for one in looks],
        trials=count,
    )
    psr = overfitting.probabilistic_sharpe(**sample.moments)
    return {"looks": count, "psr": psr, "psr_deflated": deflated.dsr, "expected_max_sharpe": deflated.sr0}


def explain_undefined(look: Trial) -> dict[str, str]:
    """Return the reason of each statistic of a look that is NaN."""
    sample = look.sample
    if np.isnan(sample.sharpe):
        return {"psr": "the Sharpe ratio is undefined"}
    if not sample.is_sufficient:
        return {"psr": f"{sample.observations:.1f} independent traded observations, {MIN_OBSERVATIONS} needed"}
    if np.isnan(overfitting.probabilistic_sharpe(**sample.moments)):
        return {"psr": "the standard error of the Sharpe ratio is 0"}
    return {}
