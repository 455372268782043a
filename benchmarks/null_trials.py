"""Calibrate the deflated Sharpe ratio on trials without skill: `python benchmarks/null_trials.py RETURNS --json FILE`.

N trials are drawn from the returns of real ones (`resampled_trials.py`), and the k with the best Sharpe ratios are
preserved. Their DSR is taken in four ways: all N in a ledger; k survivors and the number N; the same with the standard
errors of the survivors; and the published formula, with V over the survivors. Beside the share of worlds in which one
of them passes 95 % stands the power to find a trial with an edge. Intervals are exact 95 % binomial ones.

Of the trials of a world, the first 100 and the 20 best are measured in full. Of the others the Sharpe ratio is exact,
and the rest is that of another record of the same trial. Worlds that the file of --json holds are not repeated.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from resampled_trials import CorrelatedTrials, Donor, Drawn, IndependentTrials, load_donors
from scipy import signal
from scipy.stats import binomtest

from pipeline.evaluation import overfitting
from pipeline.evaluation.comparison import TimeScale, rank_models
from pipeline.evaluation.ledger import Ledger, merge_lines
from pipeline.evaluation.population import Population
from pipeline.evaluation.trials import Market, Trial, describe_market, make_trial, parse_lines, render_lines
from pipeline.reporting import markdown

MINUTE_MS, YEAR_BARS = 60_000, 525_600
MEASURED, BEST = 100, 20
SHRINK, AUTOCORRELATION = 9, 0.8  # three times the error: a record of a ninth, or an AR(1): (1 + φ) / (1 - φ) = 9
CHURNER = -217.0  # annualized Sharpe
OFTEN = 0.5  # share of traded bars of a trial with a planted edge
EDGES = (4.0, 5.0, 6.0, 7.0)  # true Sharpe of a planted trial, in standard errors of its record
PASS = 0.95
ARMS = {"1 of 50": 50, "2 of 20": 20, "2 of 100": 100, "4 of 100": 100, "8 of 100": 100, "8 of 1000": 1000}
NOISY = {
    "a tenth with a ninth of the bars": "short",
    "a tenth with AR(1), 0.8": "autocorrelated",
    "a churner": "churner",
}
WAYS = {
    "ledger": "all N in the ledger",
    "survivors": "k survivors and N",
    "errors": "the same, with their errors",
    "published": "as published, V of the k",
}

Facts = dict[str, Any]


@dataclass(frozen=True)
class World:
    """Trials without skill on one market, and the returns that they were drawn from."""

    drawn: Drawn
    trials: Sequence[Trial]
    market: Market

    def record(self, name: str, net: np.ndarray) -> Trial:
        """Return the trial of net returns (T,)."""
        return record_trial(name, net, self.market)


def record_trial(name: str, net: np.ndarray, market: Market) -> Trial:
    """Return the trial of net returns (T,), as `evaluate` records it."""
    return make_trial(
        "trial",
        {"model": name, "seeds": [1]},
        market,
        target="return_5",
        time_ms=MINUTE_MS * np.arange(len(net)),
        net=net,
        bars_per_year=YEAR_BARS,
        risk_free_rate=0.0,
    )


def make_world(donors: Sequence[Donor], *, kind: str, seed: int, count: int) -> World:
    """Return a world of `count` trials, of which the first ones and the best are measured in full."""
    rng, bars = np.random.default_rng([seed, kind == "correlated"]), donors[0].bars
    drawn = IndependentTrials(donors, count, rng) if kind == "independent" else CorrelatedTrials(donors, count, rng)
    market = describe_market(np.repeat("NULL", bars), MINUTE_MS * np.arange(bars), 1.0 + np.arange(bars))
    best = set(np.argsort(-np.nan_to_num(drawn.sharpes, nan=-np.inf))[:BEST].tolist())
    trials, template = [], record_trial("template", drawn.take(0), market)
    for i, sharpe in enumerate(drawn.sharpes):
        if i < MEASURED or i in best:
            trials.append(record_trial(f"trial {i}", drawn.take(i), market))
        else:
            sample = replace(drawn.take_sample(i), sharpe=float(sharpe))
            trials.append(replace(template, digest=f"{i:016x}", model=f"trial {i}", sample=sample))
    return World(drawn, trials, market)


def add_noise(world: World, kind: str, *, count: int) -> list[Trial]:
    """Return the first trials with a tenth of them noisier, or one of them a churner."""
    changed = list(world.trials[:count])
    for i in range(count // 10 if kind != "churner" else 1):
        net = world.drawn.take(i)
        if kind == "short":
            net = net[: len(net) // SHRINK]
        elif kind == "autocorrelated":
            net = signal.lfilter([1.0], [1.0, -AUTOCORRELATION], net)
        else:
            net = net - net.mean() + CHURNER / np.sqrt(YEAR_BARS) * net.std()
        changed[i] = world.record(f"trial {i}", net)
    return changed


def plant_edge(world: World, edge: float, *, count: int) -> list[Trial]:
    """Return the first trials, one of them with a true Sharpe ratio of `edge` standard errors on its traded bars.

    It is the first that trades often, so that its mean does not depend on when it holds a position.
    """
    records = ((i, world.drawn.take(i)) for i in range(count))
    at, net = next((i, net) for i, net in records if (net != 0).mean() > OFTEN)
    traded = net != 0
    mean = edge * world.trials[at].sample.error * net.std() / traded.mean()
    planted = world.record("planted", np.where(traded, net + mean, 0.0))
    return [planted, *(trial for i, trial in enumerate(world.trials[:count]) if i != at)]


def take_survivors(trials: Sequence[Trial], k: int) -> list[Trial]:
    """Return the k trials with the best Sharpe ratios."""
    order = np.argsort([-np.nan_to_num(trial.sample.sharpe, nan=-np.inf) for trial in trials], kind="stable")
    return [trials[i] for i in order[:k]]


def rank_survivors(survivors: Sequence[Trial], others: Sequence[Trial]) -> dict[str, Any]:
    """Return the leaderboard of survivors among all trials."""
    scale = TimeScale(time_ms=MINUTE_MS * np.arange(2), bars_per_year=YEAR_BARS)
    population = Population({trial.model: trial for trial in survivors}, others)
    return rank_models(population, {}, scale=scale, confidence=PASS)


def assess_ledger(trials: Sequence[Trial], k: int) -> float:
    """Return the best DSR of the survivors, all trials written to a ledger and read from it."""
    lines = merge_lines([trial.make_line() for trial in trials])
    ledger = Ledger.from_lines(parse_lines(render_lines(lines), source="ledger"))
    best = {trial.model for trial in take_survivors(trials, k)}
    survivors = [trial for trial in ledger.trials if trial.model in best]
    rows = rank_survivors(survivors, ledger.list_others(survivors))
    if {row["trials"] for row in rows.values()} != {len(trials)}:
        raise ValueError(f"{rows.popitem()[1]['trials']} of {len(trials)} trials were counted")
    return take_best([float(row["dsr"]) for row in rows.values()])


def take_best(probabilities: Sequence[float]) -> float:
    """Return the highest that is defined; 0 without one."""
    return max((each for each in probabilities if np.isfinite(each)), default=0.0)


def assess_survivors(survivors: Sequence[Trial], count: int) -> Facts:
    """Return the best DSR with the survivors and the number of trials alone, by `deflate` and as published."""
    samples = [trial.sample for trial in survivors if np.isfinite(trial.sample.sharpe)]
    sharpes, errors = np.array([each.sharpe for each in samples]), np.array([each.error for each in samples])
    known: dict[str, Facts] = {
        "survivors": {"trial_sharpes": sharpes},
        "errors": {"trial_sharpes": sharpes, "trial_errors": errors},
    }
    sufficient = [each for each in samples if each.is_sufficient]
    deflated = {
        way: take_best([overfitting.deflate(**each.moments, **given, trials=count).dsr for each in sufficient])
        for way, given in known.items()
    }
    variance = float(np.var(sharpes, ddof=1)) if len(sharpes) > 1 else 0.0
    published = [
        overfitting.deflated_sharpe(
            **(dict[str, Any](each.moments) | {"n": each.bars}), variance=variance, trials=count
        )
        for each in samples
    ]
    return {**deflated, "published": take_best(published)}


def assess_arm(trials: Sequence[Trial], k: int) -> Facts:
    """Return the best DSR of the k best trials in every way."""
    return {"ledger": assess_ledger(trials, k), **assess_survivors(take_survivors(trials, k), len(trials))}


def find_edge(trials: Sequence[Trial], k: int) -> list[bool]:
    """Return whether the planted trial is the best and its DSR passes: among all, and among survivors alone."""
    survivors = take_survivors(trials, k)
    best = survivors[0]
    if best.model != "planted" or not best.sample.is_sufficient:
        return [False, False]
    chosen = {trial.model for trial in survivors}
    dsr = rank_survivors(survivors, [trial for trial in trials if trial.model not in chosen])["planted"]["dsr"]
    sharpes = [trial.sample.sharpe for trial in survivors]
    alone = overfitting.deflate(**best.sample.moments, trial_sharpes=sharpes, trials=len(trials)).dsr
    return [bool(dsr > PASS), bool(alone > PASS)]


def run_world(donors: Sequence[Donor], *, kind: str, seed: int, count: int) -> Facts:
    """Return the best DSR of every arm in one world, and whether a planted edge is found."""
    world = make_world(donors, kind=kind, seed=seed, count=count)
    arms = {arm: size for arm, size in ARMS.items() if size <= count}
    null = {arm: assess_arm(world.trials[:size], read_k(arm)) for arm, size in arms.items()}
    for name, change in NOISY.items():
        null[f"8 of 100, {name}"] = assess_arm(add_noise(world, change, count=100), 8)
    found = {
        arm: [find_edge(plant_edge(world, edge, count=size), read_k(arm)) for edge in EDGES]
        for arm, size in arms.items()
    }
    return {"kind": kind, "seed": seed, "null": null, "edge": found}


def read_k(arm: str) -> int:
    """Return the number of survivors of an arm."""
    return int(arm.split()[0])


def format_share(events: Sequence[bool]) -> str:
    """Return a share with the upper end of its exact interval, for example `3.0 % (≤ 5.2)`; a dash without events."""
    if not events:
        return "–"
    high = binomtest(sum(events), len(events)).proportion_ci(PASS, method="exact").high
    return f"{100 * np.mean(events):.1f} % (≤ {100 * high:.1f})"


def render_nulls(worlds: Sequence[Facts]) -> str:
    """Return the table of the worlds without skill: how often the best DSR passes."""
    rows = []
    for arm in dict.fromkeys(arm for world in worlds for arm in world["null"]):
        found = [world["null"][arm] for world in worlds if arm in world["null"]]
        shares = [format_share([each[way] > PASS for each in found]) for way in WAYS]
        rows.append([arm, str(len(found)), *shares])
    return markdown.render_table(["best k of N without skill", "worlds", *WAYS.values()], rows)


def render_power(worlds: Sequence[Facts], *, bars: int) -> str:
    """Return the table of the planted edges: how often the planted trial is the best and its DSR passes."""
    rows = []
    for arm in dict.fromkeys(arm for world in worlds for arm in world["edge"]):
        flags = [[edge[:2] for edge in world["edge"][arm]] for world in worlds if arm in world["edge"]]
        shares = 100 * np.mean(flags, axis=0)  # (edges, 2)
        rows.append([arm, str(len(flags)), *(f"{ledger:.0f} / {alone:.0f} %" for ledger, alone in shares)])
    edges = [f"t = {edge:g} (annual {edge * np.sqrt(YEAR_BARS / bars):.0f})" for edge in EDGES]
    return markdown.render_table(["one of N with an edge of", "worlds", *edges], rows)


def read_worlds(file: Path) -> list[Facts]:
    """Return the worlds that a file holds, one a line."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def extend_worlds(file: Path, keys: Sequence[Facts], run: Callable[[Facts], Facts], *, seconds: float) -> list[Facts]:
    """Return the worlds of `keys`, those that the file lacks run and added to it until the time is over."""
    worlds, start = read_worlds(file), time.perf_counter()
    known = [{name: world[name] for name in keys[0]} for world in worlds]
    for key in (key for key in keys if key not in known):
        if time.perf_counter() - start > seconds:
            break
        world = run(key)
        worlds.append(world)
        with file.open("a") as stream:
            stream.write(json.dumps(world) + "\n")
        print(f"{key}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return worlds


def main() -> None:
    """Run the worlds and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("returns", nargs="+", type=Path, help="files of trained/returns, or .npz: an array per trial")
    parser.add_argument("--kind", choices=("independent", "correlated"), default="independent", help="of the trials")
    parser.add_argument("--worlds", type=int, default=400)
    parser.add_argument("--count", type=int, default=1000, help="of the trials of a world")
    parser.add_argument("--bars", type=int, default=20_000, help="of a record")
    parser.add_argument("--seconds", type=float, default=np.inf, help="after which no world is started")
    parser.add_argument("--json", type=Path, required=True, help="file of the worlds, to which new ones are added")
    options = parser.parse_args()
    donors = load_donors(options.returns, bars=options.bars)
    keys = [{"kind": options.kind, "seed": seed} for seed in range(options.worlds)]
    worlds = extend_worlds(
        options.json, keys, lambda key: run_world(donors, count=options.count, **key), seconds=options.seconds
    )
    print(f"{len(donors)} trials to draw from\n\n{render_nulls(worlds)}\n\n{render_power(worlds, bars=options.bars)}")


if __name__ == "__main__":
    main()
