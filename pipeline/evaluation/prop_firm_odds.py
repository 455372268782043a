"""The odds of a prop firm's evaluation by risk size, from resampled days of a strategy's paths.

Each challenge trades its own sequence of local days, drawn by the stationary bootstrap (Politis & Romano 1994). Whole
days are drawn, so that hours and resets stay together. Phases follow each other; then comes the funded account.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
from annotated_types import Interval, MinLen
from scipy import stats

from pipeline.evaluation.bootstrap import draw_blocks
from pipeline.evaluation.execution import Ascending
from pipeline.evaluation.prop_firm import BREACHES, PropFirmRules, read_terms
from pipeline.evaluation.prop_firm_account import PASSED, ROUNDING, UNDECIDED, Bars, Terms, walk_account

NO_EQUITY = np.empty(0)
MIN_DAYS = 3  # the first and the last are partial ones and are not drawn
TAILS = (0.05, 0.95)  # of the days to pass


@dataclass(frozen=True, kw_only=True)
class ChallengeSettings:
    """The settings of resampled challenges."""

    # loss of a full position in a move of one daily standard deviation, a share of the equity
    risks: Annotated[list[Annotated[float, Interval(gt=0, lt=1)]], MinLen(1), Ascending]
    evaluation_days: Annotated[int, Interval(ge=1, le=10_000)]  # of all phases; then a challenge is undecided
    funded_days: Annotated[int, Interval(ge=0, le=10_000)]  # of the funded account
    block_days: Annotated[float, Interval(ge=1, le=1_000)]  # mean length of a block
    resamples: Annotated[int, Interval(ge=2, le=1_000_000)]  # challenges of each path and risk
    confidence: Annotated[float, Interval(gt=0, lt=1)]  # of the intervals
    models: list[str]  # whose paths are resampled beside those of the bundle's signal


class Challenge(NamedTuple):
    """The end of one challenge."""

    phases_passed: int
    breach: str | None  # of a phase: "daily", "max" or None
    days: float  # up to passing all phases; NaN where it did not
    funded_breach: str | None  # of the funded account
    payout: float  # of the trader, with the refund, less the challenge fee


@dataclass(frozen=True)
class BestRisk:
    """The risk with the highest expected payout, averaged over the paths."""

    risk: float  # NaN where none earns more than the fee
    payout: float  # the highest average
    pass_probability: float  # of all phases, averaged over the paths; NaN as the risk
    ruin_probability: float  # of a breach in a phase or of the funded account; NaN as the risk
    reason: str | None  # why the risk is NaN


def draw_days(rng: np.random.Generator, *, days: int, block_days: float, length: int) -> np.ndarray:
    """Return (length,) places of days in blocks of consecutive ones; the first follows the last."""
    parts = []
    for _ in range(-(-length // days)):
        start, count = draw_blocks(rng, bars=days, block_bars=block_days)
        offset = np.arange(days) - np.repeat(count.cumsum() - count, count)
        parts.append((np.repeat(start, count) + offset) % days)
    return np.concatenate(parts)[:length]


def run_challenge(
    bars: Bars,
    sequence: np.ndarray,
    *,
    phases: Sequence[Terms],
    funded: Terms,
    rules: PropFirmRules,
    evaluation_days: int,
) -> Challenge:
    """Return how a challenge ends on a sequence of days.

    Each phase starts flat with the initial balance on the day after the one before was passed.

    Args:
        bars: of one path.
        sequence: days of the bars in the order in which they are traded; those that follow the last phase are funded.
        phases: terms of each phase.
        funded: terms of the funded account.
        rules: fee, payouts and initial balance.
        evaluation_days: of the sequence, in which all phases must be passed.
    """
    step = 0
    for passed, terms in enumerate(phases):
        balance = terms.initial_balance
        end = walk_account(bars, sequence, step, evaluation_days, balance, balance, terms, NO_EQUITY)
        if end.status != PASSED:
            return Challenge(passed, BREACHES.get(end.status), np.nan, None, -rules.challenge_fee)
        step = end.step + 1
    payout, breach = run_funded(
        bars, sequence[step : step + len(sequence) - evaluation_days], terms=funded, rules=rules
    )
    return Challenge(len(phases), None, float(step), breach, payout - rules.challenge_fee)


def run_funded(bars: Bars, sequence: np.ndarray, *, terms: Terms, rules: PropFirmRules) -> tuple[float, str | None]:
    """Return the payouts of a funded account with the refund of the fee, and the limit that it broke or None.

    Every `payout_days`, and after the last day, all positions are closed. A profit is then withdrawn, so that the
    balance is the initial one; a loss stays in the balance.
    """
    initial = balance = highest = terms.initial_balance
    payout = 0.0
    for step in range(0, len(sequence), rules.payout_days):
        stop = min(step + rules.payout_days, len(sequence))
        end = walk_account(bars, sequence, step, stop, balance, highest, terms, NO_EQUITY)
        if end.status != UNDECIDED:
            return payout, BREACHES[end.status]
        balance, highest = end.balance, end.highest
        if (profit := balance - initial) > ROUNDING * initial:
            refund = rules.challenge_fee if payout == 0.0 else 0.0
            payout += rules.profit_split * profit + refund
            balance = highest = initial
    return payout, None


def simulate_many(
    paths: Sequence[Bars], *, rules: PropFirmRules, settings: ChallengeSettings, daily_volatility: float, seed: int
) -> pd.DataFrame:
    """Return the challenges of every path and risk: path, risk, resample and the fields of `Challenge`.

    A full position is worth risk / `daily_volatility` times the equity, at most `max_leverage` times it. Resample k
    draws the same days for all risks, and for all paths that have the same number of days.

    Args:
        paths: bars by `prop_firm.make_bars`, at least 3 local days each; the first and the last are not drawn.
        rules: of the firm.
        settings: risks and resamples.
        daily_volatility: standard deviation of daily returns of the symbol, see `prop_firm.estimate_daily_volatility`.
        seed: of the days that are drawn.

    Raises:
        ValueError: a path has fewer than 3 days, there is none, or the volatility is not above 0.
    """
    if not 0 < daily_volatility < np.inf:
        raise ValueError(f"daily_volatility is {daily_volatility}; give a standard deviation above 0")
    if not paths:
        raise ValueError("paths is empty; give the bars of at least one path")
    rows: list[dict[str, Any]] = []
    length = settings.evaluation_days + settings.funded_days
    for path, bars in enumerate(paths):
        if (days := len(bars.first) - 1) < MIN_DAYS:
            raise ValueError(f"path {path} has {days} local days; resampling needs at least {MIN_DAYS}")
        rng = np.random.default_rng(seed)
        sequences = [
            1 + draw_days(rng, days=days - 2, block_days=settings.block_days, length=length)
            for _ in range(settings.resamples)
        ]
        for risk in settings.risks:
            exposure = risk / daily_volatility
            phases = [read_terms(rules, exposure=exposure, target=target) for target in rules.targets]
            funded = read_terms(rules, exposure=exposure, target=np.inf)
            for resample, sequence in enumerate(sequences):
                challenge = run_challenge(
                    bars,
                    sequence,
                    phases=phases,
                    funded=funded,
                    rules=rules,
                    evaluation_days=settings.evaluation_days,
                )
                rows.append({"path": path, "risk": risk, "resample": resample} | challenge._asdict())
    return pd.DataFrame(rows)


def measure_odds(challenges: pd.DataFrame, *, phases: int, confidence: float) -> pd.DataFrame:
    """Return the odds of each path and risk from the challenges of `simulate_many`; one row each.

    Columns: path, risk; `pass_<k>` of the phases up to k, `daily_breach` and `max_breach` of a phase, `undecided`,
    `funded_breach` and `ruin` (any breach), as shares of all challenges, each with `_low` and `_high` of Wilson's
    interval; `days_to_pass`, the median of those that pass all phases, with its 5 % and 95 % quantiles; `payout`, the
    mean, with the Normal interval of a mean; `reason`, why a number is NaN.

    The intervals hold the chance of resampling alone. The differences between paths show more of the uncertainty.
    """
    return pd.DataFrame(
        [
            {"path": path, "risk": risk} | _measure_group(group, phases=phases, confidence=confidence)
            for (path, risk), group in challenges.groupby(["path", "risk"], sort=True)
        ]
    )


def _measure_group(group: pd.DataFrame, *, phases: int, confidence: float) -> dict[str, Any]:
    """Return the odds of the challenges of one path and risk."""
    passed, is_funded = group["phases_passed"], group["phases_passed"] == phases
    is_breached, is_funded_breach = group["breach"].notna(), group["funded_breach"].notna()
    facts = {f"pass_{phase}": passed >= phase for phase in range(1, phases + 1)}
    facts |= {f"{limit}_breach": group["breach"] == limit for limit in BREACHES.values()}
    facts |= {"undecided": ~is_funded & ~is_breached}
    facts |= {"funded_breach": is_funded_breach, "ruin": is_breached | is_funded_breach}
    odds: dict[str, Any] = {}
    for name, fact in facts.items():
        test = stats.binomtest(int(fact.sum()), len(fact))
        low, high = test.proportion_ci(confidence_level=confidence, method="wilson")
        odds |= {name: test.statistic, f"{name}_low": float(low), f"{name}_high": float(high)}
    days = group["days"][is_funded]
    quantiles = days.quantile([0.5, *TAILS]) if len(days) else [np.nan] * 3
    odds |= dict(zip(("days_to_pass", "days_to_pass_low", "days_to_pass_high"), map(float, quantiles), strict=True))
    payout, error = float(group["payout"].mean()), float(group["payout"].std(ddof=1)) / np.sqrt(len(group))
    half = float(stats.norm.ppf((1 + confidence) / 2)) * error
    reason = None if len(days) else "no days_to_pass, no challenge passes all phases"
    return odds | {"payout": payout, "payout_low": payout - half, "payout_high": payout + half, "reason": reason}


def choose_risk(odds: pd.DataFrame, *, phases: int) -> BestRisk:
    """Return the risk with the highest payout averaged over the paths, the smaller of equals.

    It is the best of this sample: its payout is biased upward by the choice.
    """
    mean = odds.groupby("risk", sort=True)[["payout", f"pass_{phases}", "ruin"]].mean()
    best = int(mean["payout"].to_numpy().argmax())
    risk, (payout, passed, ruin) = float(mean.index.to_numpy()[best]), map(float, mean.to_numpy()[best])
    if payout <= 0:
        reason = f"no risk has an expected payout above the fee; the highest is {payout:.2f} at {risk:g}"
        return BestRisk(np.nan, payout, np.nan, np.nan, reason)
    return BestRisk(risk, payout, passed, ruin, None)
