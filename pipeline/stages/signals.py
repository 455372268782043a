"""signals <dataset>: correlate every feature with every target on the development rows, and show how stable that is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from pipeline import artifacts, cli, config, digests
from pipeline.evaluation.gates import GateResult, Gates, describe_gate, judge_gates
from pipeline.evaluation.signals import Signal, measure_signals
from pipeline.feature_file import FeatureFile
from pipeline.reporting import markdown
from pipeline.reporting.markdown import DASH
from pipeline.reporting.signal_plots import SignalPanel, plot_signals
from pipeline.samples import open_features, read_labels
from pipeline.targets import Target
from pipeline.validation.folds import Folds

NAN = float("nan")
MIN_SHOWN_P = 0.001
Results = Mapping[str, Mapping[str, Signal]]  # by target and feature
HEAD = (
    "feature",
    "IC ± error",
    "p",
    "rank IC ± error",
    "p of rank IC",
    "IC of the groups",
    "IC / std",
    "same sign",
    "autocorrelation",
    "turnover",
    "constant",
    "gates that do not hold",
)
NOTE = """\
Only development rows are measured, none of the holdout. IC: Pearson's correlation of feature and label, rank IC:
Spearman's, each with its standard error, which allows for overlapping labels, and its p-value, two-sided and adjusted
for all features of the target (Holm). IC of the groups: mean ± standard deviation over the groups of the
cross-validation; IC / std: their ratio; same sign: the share of groups whose IC has the sign of the whole.
Autocorrelation, turnover and constant are of the feature from bar to bar: turnover is the mean absolute change of its
standard score within ±1, constant the share of bars that repeat the value before. Features are sorted by |IC|."""


@dataclass(frozen=True)
class DevelopmentRows:
    """The features and labels of the rows before the holdout, and the group of each."""

    features: FeatureFile  # which are read one by one
    time: np.ndarray  # (n,)
    segment: np.ndarray  # (n,) the number of each row's run
    group: np.ndarray  # (n,)
    y: dict[str, np.ndarray]  # (n,) by target
    has_direction: dict[str, bool]  # by target


def main(dataset: str) -> None:
    """Measure every feature of a dataset against every target."""
    params = config.load_params()
    gates = config.call_with(Gates, block=config.look_up(params, "gates"), name="gates")
    data = load_development_rows(dataset, list(config.look_up(params, f"datasets.{dataset}.targets")))
    signals = measure_signals(
        data.features,
        data.y,
        columns=data.features.columns,
        time=data.time,
        segment=data.segment,
        group=data.group,
    )
    artifacts.write_report("signals", dataset, make_headline(signals, gates))
    artifacts.write_report("signals/details", dataset, collect_details(signals, gates, data.has_direction))
    page = render_page(dataset, signals, gates, data.has_direction)
    artifacts.write_text(artifacts.report_path("signals", dataset).with_suffix(".md"), page)
    panels = {target: make_panel(found, gates) for target, found in signals.items()}
    title = f"{dataset}: rank IC of features, * distinguishable from 0 (p < {gates.signal_p_value:g}, Holm)"
    figure = plot_signals(data.features.columns, panels, title=title, unit="rank IC (Spearman)")
    artifacts.write_figure(artifacts.PLOTS / f"signals_{dataset}" / "rank_ic.png", figure)


def load_development_rows(dataset: str, targets: list[str]) -> DevelopmentRows:
    """Return the development rows of a dataset; no feature and no label of the holdout is among them."""
    folds, rows = Folds.load(digests.verify(artifacts.FOLDS / f"{dataset}.parquet"))
    development = folds.development()
    rows = rows.iloc[development]
    files = {target: digests.verify(artifacts.LABELS / dataset / f"{target}.parquet") for target in targets}
    features, segment = open_features(digests.verify(artifacts.FEATURES / f"{dataset}.parquet"), rows=rows)
    return DevelopmentRows(
        features=features,
        time=rows["time"].to_numpy(),
        segment=segment,
        group=folds.number_groups()[development],
        y={target: read_labels(files[target], rows=rows)["y"] for target in targets},
        has_direction={target: Target.load(file).output.has_direction for target, file in files.items()},
    )


def judge_signal(signal: Signal, gates: Gates) -> dict[str, GateResult]:
    """Return the gates of a signal, which may be traded with either sign."""
    measurements = {
        "signal_ic": abs(signal.ic.value),
        "signal_correlation": abs(signal.rank_ic.value),
        "signal_turnover": signal.behavior.turnover,
        "signal_p_value": signal.ic.p_adjusted,
    }
    return judge_gates(measurements, gates)


def make_headline(signals: Results, gates: Gates) -> dict[str, object]:
    """Return the few metrics that `dvc metrics` shows: for each target its best features and how many pass gates."""
    return {target: summarize_target(found, gates) for target, found in signals.items()}


def summarize_target(found: Mapping[str, Signal], gates: Gates) -> dict[str, object]:
    """Return the largest |IC| and |rank IC| of a target, and the number of features that pass each gate, and all."""
    name, best = next(iter(sort_signals(found).items()))
    rank_ics = np.array([abs(signal.rank_ic.value) for signal in found.values()])
    return {
        "features": len(found),
        "best_feature": None if "ic" in best.reasons else name,
        "best_abs_ic": abs(best.ic.value),
        "best_abs_rank_ic": NAN if np.isnan(rank_ics).all() else float(np.nanmax(rank_ics)),
        "passing": count_passing(found, gates),
        "reason": best.reasons.get("ic"),
    }


def count_passing(found: Mapping[str, Signal], gates: Gates) -> dict[str, int]:
    """Return how many features of a target pass each gate, and all of them."""
    results = [judge_signal(signal, gates) for signal in found.values()]
    names = list(results[0])
    single = {name: sum(result[name].passes is True for result in results) for name in names}
    return single | {"all": sum(all(each.passes for each in result.values()) for result in results)}


def collect_details(signals: Results, gates: Gates, has_direction: Mapping[str, bool]) -> dict[str, object]:
    """Return every metric of every feature and target."""
    return {
        target: {
            "has_direction": has_direction[target],
            "features": {
                name: {
                    **signal.tabulate(),
                    "gates": {gate: asdict(result) for gate, result in judge_signal(signal, gates).items()},
                }
                for name, signal in found.items()
            },
        }
        for target, found in signals.items()
    }


def sort_signals(found: Mapping[str, Signal]) -> dict[str, Signal]:
    """Return the signals of a target by |IC|, the largest first, undefined ones last."""
    return dict(sorted(found.items(), key=lambda item: -np.nan_to_num(abs(item[1].ic.value), nan=-1.0)))


def render_page(dataset: str, signals: Results, gates: Gates, has_direction: Mapping[str, bool]) -> str:
    """Return the signals as a page of markdown."""
    first = next(iter(signals.values()))
    rows = next(iter(first.values())).rows
    title = f"# {dataset}: {len(first)} features as signals, {rows:,} development rows"
    tables = [
        f"## {target}{'' if has_direction[target] else ' (without a direction)'}\n\n{render_target(found, gates)}"
        for target, found in signals.items()
    ]
    return "\n\n".join([title, NOTE, render_gates(signals, gates), *tables]) + "\n"


def render_gates(signals: Results, gates: Gates) -> str:
    """Return the number of features that pass each gate, by target; gates stop nothing."""
    counts = {target: count_passing(found, gates) for target, found in signals.items()}
    names = list(next(iter(counts.values())))
    rows = (
        ["all gates" if name == "all" else f"`{describe_gate(name, gates)}`", *(str(c[name]) for c in counts.values())]
        for name in names
    )
    return markdown.render_table(["features that pass, which stops nothing", *counts], rows)


def render_target(found: Mapping[str, Signal], gates: Gates) -> str:
    """Return the table of one target."""
    rows = (render_signal(name, signal, gates) for name, signal in sort_signals(found).items())
    return markdown.render_table(HEAD, rows)


def render_signal(name: str, signal: Signal, gates: Gates) -> list[str]:
    """Return the cells of one feature."""
    behavior, failed = signal.behavior, [g for g, result in judge_signal(signal, gates).items() if not result.passes]
    return [
        f"`{name}`",
        render_spread(signal.ic.value, signal.ic.error),
        render_p_value(signal.ic.p_adjusted),
        render_spread(signal.rank_ic.value, signal.rank_ic.error),
        render_p_value(signal.rank_ic.p_adjusted),
        render_spread(signal.ic.mean, signal.ic.std),
        render_decimals(signal.ic.information_ratio, 1),
        DASH if np.isnan(signal.ic.sign_share) else f"{signal.ic.sign_share:.0%}",
        render_decimals(behavior.autocorrelation, 3),
        render_decimals(behavior.turnover, 3),
        DASH if np.isnan(behavior.constant_share) else f"{behavior.constant_share:.1%}",
        ", ".join(gate.removeprefix("signal_") for gate in failed) or DASH,
    ]


def render_spread(value: float, spread: float) -> str:
    """Return a number with its spread, where it has one."""
    return render_decimals(value, 4) + ("" if np.isnan(spread) else f" ± {spread:.4f}")


def render_decimals(value: float, places: int) -> str:
    """Return a number with so many decimal places; a dash for NaN."""
    return DASH if np.isnan(value) else f"{value:.{places}f}".replace("-", "−")


def render_p_value(p_value: float) -> str:
    """Return a p-value with three decimal places; a dash for NaN."""
    return "< 0.001" if p_value < MIN_SHOWN_P else render_decimals(p_value, 3)


def make_panel(found: Mapping[str, Signal], gates: Gates) -> SignalPanel:
    """Return what the picture shows of one target."""
    rank_ics = [signal.rank_ic for signal in found.values()]
    return SignalPanel(
        whole=np.array([each.value for each in rank_ics]),
        groups=np.array([each.groups for each in rank_ics]),
        is_distinguishable=np.array([each.p_adjusted < gates.signal_p_value for each in rank_ics]),
    )


if __name__ == "__main__":
    cli.run(main)
