"""Measure false discoveries and power of every second opinion: `python benchmarks/second_opinions.py --json FILE`.

Two searches of known truth, in daily returns: noise, 1,000 independent trials; and a grid, 640 trials in 16 families of
40 neighbors, correlated by 0.9 within a family and 0.58 between two, 0.6 in the mean. No trial has an edge, or the
first one has: a true Sharpe ratio of so many standard errors of its record. A method's discoveries are the trials that
it lets pass at 5 %. Searches that the file of --json holds are not repeated.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from null_trials import PASS, Facts, extend_worlds, format_share, read_worlds
from scipy import stats

from pipeline.evaluation import bootstrap, effective_trials, multiple_testing, overfitting
from pipeline.evaluation.performance import sharpe
from pipeline.evaluation.sharpe_sample import SharpeSample
from pipeline.reporting import markdown

DAYS = (250, 1000)
KINDS = ("noise", "grid")
TRIALS = {"noise": 1000, "grid": 640}
FAMILIES, BETWEEN, WITHIN = 16, 0.58, 0.9
DEVIATION = 0.01  # of a day's return
EDGES = (0.0, 4.0, 5.0, 6.0)
TESTED_EDGES = (0.0, 5.0)  # at which the bootstraps run
ESTIMATED = 2  # searches of each kind whose effective number of trials is estimated; the others take the median
RESAMPLES = 199

Flags = dict[str, list[int]]  # the numbers of the trials that pass, by method
COUNTS: dict[tuple[str, int], list[dict[str, float]]] = {}


def draw_returns(kind: str, days: int, rng: np.random.Generator) -> np.ndarray:
    """Return (days, trials) returns without an edge."""
    if kind == "noise":
        return np.asarray(rng.normal(size=(days, TRIALS[kind])) * DEVIATION)
    own = rng.normal(size=(days, TRIALS[kind])) * np.sqrt(1 - WITHIN)
    family = np.repeat(rng.normal(size=(days, FAMILIES)), TRIALS[kind] // FAMILIES, axis=1)
    common = rng.normal(size=(days, 1)) * np.sqrt(BETWEEN)
    return np.asarray((own + family * np.sqrt(WITHIN - BETWEEN) + common) * DEVIATION)


def measure_columns(returns: np.ndarray) -> list[SharpeSample]:
    """Return what `measure_sharpe` does for each column of (T, trials) returns, without an idle day."""
    rows, skew, kurtosis = len(returns), stats.skew(returns), stats.kurtosis(returns, fisher=False)
    ratio = np.asarray(sharpe(returns))
    samples = []
    for i, column in enumerate(returns.T):
        n = rows / max(bootstrap.estimate_sharpe_dependence(column), 1.0)
        observations = min(rows, 3 * rows / kurtosis[i]) * n / rows
        samples.append(SharpeSample(float(ratio[i]), n, float(skew[i]), float(kurtosis[i]), rows, observations))
    return samples


def find_discoveries(samples: list[SharpeSample], effective: Mapping[str, float]) -> Flags:
    """Return the trials that pass by each method that needs no bootstrap."""
    count = len(samples)
    sharpes, errors = np.array([one.sharpe for one in samples]), np.array([one.error for one in samples])
    naive = [i for i, one in enumerate(samples) if overfitting.probabilistic_sharpe(**one.moments) > PASS]
    given = {"trial_sharpes": sharpes, "trial_errors": errors}
    flags = {"naive: PSR": naive}
    for name, number in {"N": float(count), **effective}.items():
        flags[f"DSR, {name}"] = [
            i for i in naive if overfitting.deflate(**samples[i].moments, **given, trials=number).dsr > PASS
        ]
    flags["DSR, all effective N"] = sorted(set.intersection(*(set(flags[f"DSR, {name}"]) for name in effective)))
    p_values = 2 * stats.norm.sf(np.abs(sharpes / errors))
    for name, adjusted in multiple_testing.adjust_p_values(p_values, trials=count).items():
        flags[f"Harvey & Liu, {name}"] = np.flatnonzero((adjusted < 1 - PASS) & (sharpes > 0)).tolist()
    return flags


def test_superiority(returns: np.ndarray) -> Flags:
    """Return the one trial that each bootstrap names, where it finds any."""
    test = multiple_testing.assess_superiority(returns, resamples=RESAMPLES, seed=1)
    return {
        "Reality Check": [int(returns.mean(axis=0).argmax())] if test.reality_check < 1 - PASS else [],
        "SPA": [test.best] if test.spa < 1 - PASS else [],
    }


def run_search(*, kind: str, days: int, seed: int, tested: int) -> Facts:
    """Return the discoveries of every method, for each edge of the first trial."""
    rng = np.random.default_rng([seed, days, KINDS.index(kind)])
    returns, known = draw_returns(kind, days, rng), COUNTS.setdefault((kind, days), [])
    estimated = None
    if len(known) < ESTIMATED:
        estimated = effective_trials.estimate_effective_trials(effective_trials.correlate_trials(returns))
        known.append(estimated)
    effective = estimated or {name: float(np.median([one[name] for one in known])) for name in known[0]}
    samples, found, noise = measure_columns(returns), {}, returns[:, 0].copy()
    for edge in EDGES:
        returns[:, 0] = noise + edge * DEVIATION / np.sqrt(days)
        flags = find_discoveries([*measure_columns(returns[:, :1]), *samples[1:]], effective)
        found[str(edge)] = flags | (test_superiority(returns) if edge in TESTED_EDGES and seed < tested else {})
    return {"kind": kind, "days": days, "seed": seed, "effective": estimated, "found": found}


def render_searches(searches: list[Facts]) -> str:
    """Return the tables of size, power and false discoveries."""
    tables = []
    for kind in KINDS:
        for days in DAYS:
            own = [one for one in searches if (one["kind"], one["days"]) == (kind, days)]
            if own:
                tables.append(f"{kind}, {days} days, {len(own)} searches\n\n{render_kind(own)}")
    return "\n\n".join(tables)


def render_kind(searches: list[Facts]) -> str:
    """Return the table of the searches of one kind and length."""
    methods = dict.fromkeys(name for one in searches for name in one["found"]["0.0"])
    head = ["method", "searches", "any discovery without an edge"]
    head += [f"edge of {edge:g}: found" for edge in EDGES[1:]] + ["false discovery rate at 5"]
    rows = []
    for method in methods:
        used = [one["found"] for one in searches if method in one["found"]["0.0"]]
        powers = [
            f"{np.mean([0 in one[str(edge)][method] for one in used]):.0%}" if method in used[0][str(edge)] else "–"
            for edge in EDGES[1:]
        ]
        chosen = [one["5.0"][method] for one in used]
        false = np.mean([sum(i != 0 for i in each) / max(len(each), 1) for each in chosen])
        size = format_share([bool(one["0.0"][method]) for one in used])
        rows.append([method, str(len(used)), size, *powers, f"{false:.3f}"])
    return markdown.render_table(head, rows)


def main() -> None:
    """Run the searches and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=200, help="of each kind and length")
    parser.add_argument("--tested", type=int, default=50, help="of them, with the bootstraps")
    parser.add_argument("--seconds", type=float, default=np.inf, help="after which no search is started")
    parser.add_argument("--json", type=Path, required=True, help="file of the searches, to which new ones are added")
    options = parser.parse_args()
    keys = [
        {"kind": kind, "days": days, "seed": seed}
        for seed in range(options.searches)
        for kind in KINDS
        for days in DAYS
    ]
    for search in read_worlds(options.json):
        if search["effective"]:
            COUNTS.setdefault((search["kind"], search["days"]), []).append(search["effective"])
    searches = extend_worlds(
        options.json, keys, lambda key: run_search(**key, tested=options.tested), seconds=options.seconds
    )
    print(render_searches(searches))


if __name__ == "__main__":
    main()
