"""The odds of a prop firm's evaluation: challenges worked by hand, intervals, and the law of a fair game."""

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.prop_firm import PropFirmRules, make_bars, read_terms
from pipeline.evaluation.prop_firm_account import Bars
from pipeline.evaluation.prop_firm_odds import (
    ChallengeSettings,
    choose_risk,
    draw_days,
    measure_odds,
    run_challenge,
    run_funded,
    simulate_many,
)

HALF_DAY_MS = 43_200_000


def make_rules(**changes) -> PropFirmRules:
    values = {
        "initial_balance": 100_000,
        "daily_loss": 0.05,
        "max_loss": 0.1,
        "targets": [0.1, 0.05],
        "min_days": 4,
        "trailing": False,
        "timezone": "UTC",
        "fee_bps": 0,
        "max_leverage": 3.3,
        "lot_size": 0,
        "challenge_fee": 540,
        "profit_split": 0.8,
        "payout_days": 3,
    }
    return PropFirmRules(**values | changes)


def make_settings(**changes) -> ChallengeSettings:
    values = {
        "risks": [0.02],
        "evaluation_days": 12,
        "funded_days": 7,
        "block_days": 2,
        "resamples": 20,
        "confidence": 0.95,
        "models": [],
    }
    return ChallengeSettings(**values | changes)


def make_path(moves) -> Bars:
    """Return two bars a day: flat until noon, then long over the move of the day."""
    close = 100 * np.repeat(np.cumprod(1 + np.array(moves)), 2)
    close[::2] = np.append(100, close[1:-1:2])
    time_ms, position = HALF_DAY_MS * np.arange(len(close)), np.tile([0.0, 1.0], len(moves))
    return make_bars(time_ms, high=close, low=close, close=close, position=position, timezone="UTC")


def challenge(moves, *, exposure=1.0, evaluation_days=12, **changes):
    rules = make_rules(**changes)
    phases = [read_terms(rules, exposure=exposure, target=target) for target in rules.targets]
    funded = read_terms(rules, exposure=exposure, target=np.inf)
    days = {"evaluation_days": evaluation_days}
    return run_challenge(make_path(moves), np.arange(len(moves)), phases=phases, funded=funded, rules=rules, **days)


def test_a_challenge_with_a_steady_profit_passes_and_withdraws():
    """5 days of 2 % pass 10 %; 3 would pass 5 %, but 4 trading days are needed; then 3, 3 and 1 funded days."""
    result = challenge([0.02] * 19)
    profit = 0.8 * (2 * (1.02**3 - 1) + 0.02) * 100_000
    assert (result.phases_passed, result.breach, result.days, result.funded_breach) == (2, None, 9, None)
    assert result.payout == pytest.approx(profit)  # the refund equals the fee


def test_a_breach_ends_a_challenge_at_the_price_of_its_fee():
    result = challenge([-0.02] * 19, exposure=3.0)
    assert (result.phases_passed, result.breach, result.funded_breach, result.payout) == (0, "daily", None, -540)
    assert np.isnan(result.days)
    assert challenge([-0.02] * 19)[:2] == (0, "max")
    assert challenge([0.02] * 5 + [-0.06] * 14)[:2] == (1, "daily")


def test_a_challenge_that_ends_no_phase_in_its_days_is_undecided():
    result = challenge([0.001] * 19)
    assert (result.phases_passed, result.breach, result.payout) == (0, None, -540)
    assert challenge([0.02] * 12, evaluation_days=5)[:2] == (1, None)  # no day is left for the second phase


def test_a_funded_account_carries_its_loss_past_a_payout_day():
    rules = make_rules()
    terms = read_terms(rules, exposure=1.0, target=np.inf)
    falling = make_path([-0.02] * 7)
    assert run_funded(falling, np.arange(5), terms=terms, rules=rules) == (0.0, None)
    assert run_funded(falling, np.arange(7), terms=terms, rules=rules) == (0.0, "max")  # 0.98**6 is below 0.9
    mixed = make_path([0.01, 0, 0, -0.01, 0, 0, 0.02])  # a profit, a loss, and a balance of 100,980
    payout, breach = run_funded(mixed, np.arange(7), terms=terms, rules=rules)
    assert (payout, breach) == (pytest.approx(800 + 540 + 0.8 * 980), None)


def test_days_are_drawn_in_blocks_of_consecutive_days():
    days = draw_days(np.random.default_rng(1), days=50, block_days=10, length=10_000)
    follows = (days[1:] - days[:-1]) % 50 == 1
    assert len(days) == 10_000
    assert set(days) == set(range(50))
    assert 1 - follows.mean() == pytest.approx(0.1 * 49 / 50 + 1 / 50 * 0.9, abs=0.02)  # a new block every 10 days


def test_the_first_and_the_last_day_are_not_drawn():
    path = make_path([-0.2, 0.02, 0.02, -0.2])
    challenges = simulate_many([path], rules=make_rules(), settings=make_settings(), daily_volatility=0.02, seed=1)
    assert (challenges["phases_passed"] == 2).all()


def test_the_same_seed_draws_the_same_days_for_every_risk_and_path():
    moves = np.random.default_rng(3).normal(0.003, 0.01, 30)
    settings = make_settings(risks=[0.01, 0.03], evaluation_days=60)
    shared = {"rules": make_rules(), "settings": settings, "daily_volatility": 0.01, "seed": 1}
    challenges = simulate_many([make_path(moves)] * 2, **shared)
    pd.testing.assert_frame_equal(challenges, simulate_many([make_path(moves)] * 2, **shared))
    first, second = (challenges[challenges["path"] == path].drop(columns="path") for path in (0, 1))
    pd.testing.assert_frame_equal(first, second.set_index(first.index))
    alone = simulate_many([make_path(moves)], **shared | {"settings": make_settings(risks=[0.03], evaluation_days=60)})
    pd.testing.assert_frame_equal(alone.drop(columns="path"), first[first["risk"] == 0.03].reset_index(drop=True))


def test_a_fair_game_passes_as_often_as_the_distances_of_its_limits_say():
    """Optional stopping: P(target before maximum loss) = max_loss / (max_loss + target), but for the overshoot."""
    path = make_path([0.005, -0.005] * 100)
    rules = make_rules(targets=[0.05], min_days=0, daily_loss=0.5)
    settings = make_settings(risks=[0.005], block_days=1, evaluation_days=1_600, funded_days=0, resamples=300)
    challenges = simulate_many([path], rules=rules, settings=settings, daily_volatility=0.005, seed=1)
    odds = measure_odds(challenges, phases=1, confidence=0.99).iloc[0]
    assert odds["pass_1_low"] < 0.1 / 0.15 < odds["pass_1_high"]
    assert odds["undecided"] == 0


def make_challenges(rows) -> pd.DataFrame:
    columns = ["path", "risk", "phases_passed", "breach", "days", "funded_breach", "payout"]
    return pd.DataFrame(rows, columns=columns)


def test_odds_are_shares_with_intervals_by_wilson():
    table = make_challenges(
        [
            (0, 0.01, 2, None, 10.0, "max", 100.0),
            (0, 0.01, 2, None, 30.0, None, 300.0),
            (0, 0.01, 1, "daily", np.nan, None, -40.0),
            (0, 0.01, 0, None, np.nan, None, -40.0),
        ]
    )
    odds = measure_odds(table, phases=2, confidence=0.95).iloc[0]
    expected = {"pass_1": 0.75, "pass_2": 0.5, "daily_breach": 0.25, "max_breach": 0, "undecided": 0.25}
    assert {name: odds[name] for name in expected} == expected
    assert (odds["funded_breach"], odds["ruin"], odds["days_to_pass"], odds["payout"]) == (0.25, 0.5, 20, 80)
    z = 1.959964
    assert odds["pass_2_low"] == pytest.approx(0.5 - z / 2 / np.sqrt(4 + z**2), rel=1e-6)
    assert odds["max_breach_high"] == pytest.approx(z**2 / (4 + z**2), rel=1e-6)
    assert odds["payout_high"] == pytest.approx(80 + z * np.std([100, 300, -40, -40], ddof=1) / 2, rel=1e-6)
    assert odds["reason"] is None


def test_days_to_pass_are_undefined_where_none_passes():
    odds = measure_odds(make_challenges([(0, 0.01, 0, "max", np.nan, None, -540)] * 2), phases=2, confidence=0.95)
    assert np.isnan(odds["days_to_pass"].iloc[0])
    assert odds["reason"].iloc[0] == "no days_to_pass, no challenge passes all phases"


def test_the_best_risk_has_the_highest_payout_averaged_over_the_paths():
    odds = pd.DataFrame(
        {
            "path": [0, 0, 1, 1],
            "risk": [0.01, 0.02, 0.01, 0.02],
            "payout": [100.0, 500.0, 200.0, -300.0],
            "pass_2": [0.2, 0.4, 0.4, 0.1],
            "ruin": [0.1, 0.5, 0.3, 0.9],
        }
    )
    best = choose_risk(odds, phases=2)
    assert (best.risk, best.payout, best.reason) == (0.01, 150, None)
    assert (best.pass_probability, best.ruin_probability) == (pytest.approx(0.3), pytest.approx(0.2))
    none = choose_risk(odds.assign(payout=[-5, -540, -7, -540]), phases=2)
    assert np.isnan(none.risk)
    assert none.reason == "no risk has an expected payout above the fee; the highest is -6.00 at 0.01"


@pytest.mark.parametrize(
    ("paths", "volatility", "message"),
    [
        ([], 0.01, "paths is empty; give the bars of at least one path"),
        ([[0.01, 0.01]], 0.01, "path 0 has 2 local days; resampling needs at least 3"),
        ([[0.01] * 3], 0.0, "daily_volatility is 0.0; give a standard deviation above 0"),
    ],
)
def test_paths_that_cannot_be_resampled_are_refused(paths, volatility, message):
    with pytest.raises(ValueError, match=message):
        simulate_many(
            [make_path(moves) for moves in paths],
            rules=make_rules(),
            settings=make_settings(),
            seed=1,
            daily_volatility=volatility,
        )
