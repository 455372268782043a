"""The traded positions of paths under the rules of a prop firm: walked as they are, and resampled by risk size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from pipeline.evaluation.portfolio import PortfolioResult
from pipeline.evaluation.prop_firm import (
    PropFirmRules,
    estimate_daily_volatility,
    hold_between_trades,
    make_bars,
    read_terms,
)
from pipeline.evaluation.prop_firm_account import Bars
from pipeline.evaluation.prop_firm_odds import (
    BestRisk,
    ChallengeSettings,
    choose_risk,
    measure_odds,
    run_challenge,
    simulate_many,
)

MIN_BLOCKS = 2  # of whole days: fewer resample one stretch of luck


@dataclass(frozen=True, kw_only=True)
class PropFirm:
    """The section `prop_firm` of params.yaml: the rules of a firm, and how challenges are resampled."""

    rules: PropFirmRules
    challenges: ChallengeSettings

    def add_fee(self, fee_bps: float) -> "PropFirm":
        """Return the firm with a larger fee, as by the slippage that its own fee leaves out."""
        return replace(self, rules=replace(self.rules, fee_bps=self.rules.fee_bps + fee_bps))


@dataclass(frozen=True, eq=False)
class Account:
    """The bars of one symbol, with what each path of a model holds over them."""

    model: str
    symbol: str
    paths: list[Bars]
    daily_volatility: float  # NaN where there are too few days
    reason: str | None  # why there are too few


@dataclass(frozen=True, eq=False)
class RiskCurve:
    """The odds of resampled challenges by risk size, of one account."""

    model: str
    symbol: str
    odds: pd.DataFrame  # by path and risk, see `measure_odds`
    means: pd.DataFrame  # by risk, over the paths, see `average_odds`
    best: BestRisk


def place_positions(result: PortfolioResult, open_time: np.ndarray, *, symbol: str, delay_bars: int) -> np.ndarray:
    """Return (T,) the position of a symbol over each of its bars, as `prop_firm.simulate` takes it.

    The order of a row fills at the open of the bar that is 1 + `delay_bars` later, and its position is held from
    there on; the account trades at the close before that open. Bars outside of the backtest have a position of 0.

    Args:
        result: the backtest of one path.
        open_time: (T,) of the bars of the symbol, ascending, on the clock of `result`.
        symbol: one of `result.symbols`.
        delay_bars: of the orders of `result`.
    """
    column, shift = result.symbols.index(symbol), 1 + delay_bars
    held = hold_between_trades(result.backtest.position[:, column], result.backtest.turnover[:, column])
    place = np.minimum(np.searchsorted(result.time, open_time), len(result.time) - 1)
    own = np.where(result.time[place] == open_time, held[place], 0.0)
    return np.append(np.zeros(shift), own)[: len(own)]


def open_account(
    model: str, results: Sequence[PortfolioResult], clean: pd.DataFrame, *, symbol: str, delay_bars: int, firm: PropFirm
) -> Account:
    """Return the account of one symbol over the bars of the backtests.

    Args:
        model: its name.
        results: the backtest of each path, on the same bars.
        clean: bars with symbol, open_time, high, low and close.
        symbol: one of the backtests'.
        delay_bars: of their orders.
        firm: its time zone and the length of its blocks.
    """
    first, last = results[0].time[[0, -1]]
    bars = clean[(clean["symbol"] == symbol) & clean["open_time"].between(first, last)]
    open_time, close = bars["open_time"].to_numpy(), bars["close"].to_numpy()
    prices = {"high": bars["high"].to_numpy(), "low": bars["low"].to_numpy(), "close": close}
    timezone = firm.rules.timezone
    flat = make_bars(open_time, **prices, position=np.zeros(len(bars)), timezone=timezone)
    positions = [place_positions(each, open_time, symbol=symbol, delay_bars=delay_bars) for each in results]
    reason = explain_shortness(flat, firm.challenges)
    volatility = np.nan if reason else estimate_daily_volatility(open_time, close, timezone=timezone)
    return Account(model, symbol, [flat._replace(position=each) for each in positions], volatility, reason)


def explain_shortness(bars: Bars, settings: ChallengeSettings) -> str | None:
    """Return why bars cover too few days to be resampled; None where they do not."""
    days, needed = max(len(bars.first) - 3, 0), MIN_BLOCKS * settings.block_days
    if days >= needed:
        return None
    return f"{days} whole days; {MIN_BLOCKS} blocks of prop_firm.challenges.block_days need {needed:g}"


def walk_paths(account: Account, firm: PropFirm) -> pd.DataFrame:
    """Return how one challenge ends on each path as it is, by risk: one row each; none where there is a reason.

    Columns: model, symbol, path, risk, `phases_passed`, `breach` ("daily", "max" or None) and `days`, their number up
    to passing all phases, NaN where it does not. The challenge begins on the first day.
    """
    rows: list[tuple[Any, ...]] = []
    for path, bars in enumerate(account.paths if account.reason is None else []):
        sequence = np.arange(len(bars.first) - 1)
        for risk in firm.challenges.risks:
            exposure = risk / account.daily_volatility
            end = run_challenge(
                bars,
                sequence,
                phases=[read_terms(firm.rules, exposure=exposure, target=each) for each in firm.rules.targets],
                funded=read_terms(firm.rules, exposure=exposure, target=np.inf),
                rules=firm.rules,
                evaluation_days=len(sequence),
            )
            rows.append((account.model, account.symbol, path, risk, end.phases_passed, end.breach, end.days))
    return make_walks(rows)


def make_walks(rows: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    """Return the table of `walk_paths`."""
    return pd.DataFrame(rows, columns=["model", "symbol", "path", "risk", "phases_passed", "breach", "days"])


def count_endings(walks: pd.DataFrame, *, phases: int) -> pd.DataFrame:
    """Return how many paths of each model, symbol and risk pass, break a limit or do neither, from `walk_paths`.

    Columns: model, symbol, risk, `paths`, `passed` (all phases), `daily_breach`, `max_breach` and `undecided`.
    """
    facts = walks.assign(
        paths=1,
        passed=walks["phases_passed"] == phases,
        daily_breach=walks["breach"] == "daily",
        max_breach=walks["breach"] == "max",
        undecided=(walks["phases_passed"] < phases) & walks["breach"].isna(),
    )
    names = ["paths", "passed", "daily_breach", "max_breach", "undecided"]
    return facts.groupby(["model", "symbol", "risk"], sort=False)[names].sum().reset_index()


def measure_risks(account: Account, firm: PropFirm, *, seed: int) -> RiskCurve:
    """Return the odds of challenges on resampled days of an account that has no reason against it."""
    phases, settings = len(firm.rules.targets), firm.challenges
    challenges = simulate_many(
        account.paths, rules=firm.rules, settings=settings, daily_volatility=account.daily_volatility, seed=seed
    )
    odds = measure_odds(challenges, phases=phases, confidence=settings.confidence)
    means, best = average_odds(odds, phases=phases), choose_risk(odds, phases=phases)
    return RiskCurve(account.model, account.symbol, odds, means, best)


def join_tables(curves: Sequence[RiskCurve], name: Literal["odds", "means"], *, phases: int) -> pd.DataFrame:
    """Return one table of all accounts, with model and symbol first; without a curve it has its columns and no row."""
    tables = [getattr(each, name).assign(model=each.model, symbol=each.symbol) for each in curves]
    joined = pd.concat(tables) if tables else pd.DataFrame(columns=["model", "symbol", "risk", *list_odds(phases)])
    joined.insert(0, "model", joined.pop("model"))
    joined.insert(1, "symbol", joined.pop("symbol"))
    return joined


def average_odds(odds: pd.DataFrame, *, phases: int) -> pd.DataFrame:
    """Return the means over the paths by risk, from `measure_odds`.

    `pass_probability` is that of all phases; `_lowest` and `_highest` are those of one path. `days_to_pass` is the
    mean over the paths on which a challenge passes; NaN where there is none.
    """
    names = [name for name in list_odds(phases) if not name.startswith("pass_probability")]
    grouped = odds.groupby("risk", sort=True)
    means, passed = grouped[names].mean(), grouped[f"pass_{phases}"]
    means.insert(0, "pass_probability", passed.mean())
    means.insert(1, "pass_probability_lowest", passed.min())
    means.insert(2, "pass_probability_highest", passed.max())
    return means.reset_index()


def list_odds(phases: int) -> list[str]:
    """Return the names of the odds of a risk, in their order."""
    passing = [f"pass_probability{part}" for part in ("", "_lowest", "_highest")]
    endings = ["daily_breach", "max_breach", "undecided", "funded_breach", "ruin", "days_to_pass", "payout"]
    return [*passing, *(f"pass_{phase}" for phase in range(1, phases + 1)), *endings]


def summarize_accounts(
    accounts: Sequence[Account], curves: Mapping[str, RiskCurve], *, phases: int, reason: str
) -> dict[str, Any]:
    """Return the odds at the best risk, of the symbol with the lowest probability to pass; NaN with its reason.

    Args:
        accounts: of one model, one for each symbol.
        curves: by symbol, of the accounts that have no reason against it; one without a curve counts as the lowest.
        phases: of an evaluation.
        reason: for there being no account at all.
    """
    undefined = {"risk": np.nan, **dict.fromkeys(list_odds(phases), np.nan)}
    found = [
        {"symbol": each.symbol, **_summarize_best(curves[each.symbol], phases=phases)}
        if each.reason is None
        else {"symbol": each.symbol, **undefined, "reason": f"{each.symbol}: {each.reason}"}
        for each in accounts
    ]
    if not found:
        return {"symbol": None, **undefined, "reason": reason}
    return min(found, key=lambda each: np.nan_to_num(each["pass_probability"], nan=-1.0))


def _summarize_best(curve: RiskCurve, *, phases: int) -> dict[str, Any]:
    """Return the best risk and its odds; NaN with the reason where no risk earns more than the fee."""
    best, means = curve.best, curve.means
    chosen = means[means["risk"] == best.risk]
    odds = chosen.iloc[0].to_dict() if len(chosen) else dict.fromkeys(list_odds(phases), np.nan)
    return {"risk": best.risk, **{name: float(odds[name]) for name in list_odds(phases)}} | {
        "payout": best.payout,
        "reason": best.reason,
    }
