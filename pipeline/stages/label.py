"""label <dataset>: compute the labels of every target of a dataset, with the bar at which each label ends."""

import logging
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd

from pipeline import artifacts, cli, config
from pipeline.datasets import kinds
from pipeline.datasets.words import Words, find_words
from pipeline.row_groups import open_table, read_clean
from pipeline.scale import is_constant
from pipeline.target_kinds import Labels
from pipeline.targets import Output, Target, list_shorter
from pipeline.trading_rules import read_order_delay

log = logging.getLogger(__name__)

TAIL_SHARE = 1e-4  # of the labels: those with the largest |y|, at least one
MAX_SQUARE_SHARE = 0.2  # of the sum of y² in them: BTC and ARB of 2023-2025 have 1 to 9 %, a Normal y 0.2 %
STILL = ("zero_volatility", "volatility_below_tick", "volatility_below_usual")  # causes of lost bars
UNBOUNDED = ("value", "position", "quantiles", "horizons")  # kinds of output whose y may have tails


def main(dataset: str) -> None:
    """Label the clean bars of a dataset with every target."""
    params = config.load_params()
    kind, clock = (kinds.import_part(params, dataset, part) for part in ("label", "clock"))
    words = find_words(kinds.find_optional_part(params, dataset, "words"))
    targets = config.look_up(params, f"datasets.{dataset}.targets")
    if not isinstance(targets, dict) or not targets:
        raise config.ParamsError(f"datasets.{dataset}.targets is {targets!r}; name one or more")
    delay_bars = read_order_delay(params)
    bars = read_clean(dataset, kind.COLUMNS)
    report: dict[str, dict[str, object]] = {}
    with artifacts.replace_atomically(artifacts.LABELS / dataset) as folder, words.adapt_errors():
        folder.mkdir()
        for target, block in targets.items():
            path = f"datasets.{dataset}.targets.{target}"
            labeled = label_target(kind, bars, target, block, name=path, delay_bars=delay_bars, words=words)
            described = kind.describe_target(block, name=target, path=path)
            write_labels(folder / f"{target}.parquet", labeled, described, name=path, words=words)
            report[target] = summarize_labels(labeled, described, bars=len(bars), unit=clock.UNIT)
            report[target] |= report_tails(labeled, described, words=words) | words.describe_unit()
            del labeled  # so that the labels of two targets are not in memory together
    artifacts.write_report("label", dataset, report)


def write_labels(file: Path, labeled: Labels, target: Target, *, name: str, words: Words) -> None:
    """Write the labels of a target, described in the file's attributes; ParamsError where all are the same."""
    check_variation(labeled, target, name=name, words=words)
    table = select_columns(labeled)
    table.attrs.update(target.attributes)
    with open_table(file) as writer:
        writer.append(table)


def label_target(
    kind: ModuleType, bars: pd.DataFrame, target: object, block: object, *, name: str, delay_bars: int, words: Words
) -> Labels:
    """Return the labels of one target; ParamsError where its name or its section is wrong, or no bar has a label."""
    config.check_name(target, owner=name.rpartition(".")[0])
    if not isinstance(block, dict):
        raise config.ParamsError(f"{name} is {block!r}; it must be a section with kind and its arguments")
    labeled: Labels = kind.make_labels(bars, block, name=name, delay_bars=delay_bars)
    if labeled.table.empty:
        lost = ", ".join(f"{count} by {cause}" for cause, count in labeled.lost.items())
        is_still = sum(labeled.lost.get(cause, 0) for cause in STILL) > len(bars) / 2
        remedy = "the price hardly moves: use another source of bars" if is_still else words.few_labels
        raise config.ParamsError(f"{name}: none of {len(bars)} bars has a label ({lost}); {remedy}")
    return labeled


def check_variation(labeled: Labels, target: Target, *, name: str, words: Words) -> None:
    """Raise ParamsError where every label is the same: there is nothing to learn, as of a pegged pair."""
    table = labeled.table
    if shorter := [each for each in list_shorter(table.columns) if is_constant(table[each].to_numpy())]:
        raise config.ParamsError(
            f"{name}: all {len(table)} labels {shorter[0]} are the same; leave that one out of its horizons, or use "
            "another source of bars"
        )
    y = table["y"].to_numpy()
    if not is_constant(y):
        return
    if target.output.is_classification:
        names, shares = target.output.names, _summarize_y(y, target.output)
        found = ", ".join(f"{each} {shares[each]:.0%}" for each in names)
        remedy = f"{name} needs at least two classes: change its horizon"
        remedy += f", or {words.class_limits}" if target.output.neutral_class else ""
    else:
        found, remedy = f"y is {y[0]:.6g} in every row", f"change the horizon of {name}"
    raise config.ParamsError(
        f"{name}: all {len(y)} labels are the same ({found}); {remedy}, or use another source of bars"
    )


def select_columns(labeled: Labels) -> pd.DataFrame:
    """Return the stored columns; `raw` as float32, since the last bits of a logarithm differ between processors."""
    return labeled.table.drop(columns="row").astype({"raw": np.float32})


def summarize_labels(labeled: Labels, target: Target, *, bars: int, unit: str) -> dict[str, object]:
    """Return the number of bars with a label, and without one by cause, the mean label length and y's distribution.

    Of several horizons y_1 … have the distribution of each but the last.
    """
    rows, names = len(labeled.table), ["y", *list_shorter(labeled.table.columns)]
    length = (labeled.table["label_end"] - labeled.table["time"]).to_numpy()
    return {
        "bars": bars,
        "rows": rows,
        "lost": labeled.lost,
        "ties": labeled.ties,
        f"mean_length_{unit}": float(length.mean()) if rows else float("nan"),
        **{name: _summarize_y(labeled.table[name].to_numpy(), target.output) for name in names},
    }


def report_tails(labeled: Labels, target: Target, *, words: Words) -> dict[str, object]:
    """Return `tails` and `warnings` of a target whose y is unbounded; nothing of another.

    The tail is the `TAIL_SHARE` of rows with the largest |y|, and of raw returns those with the largest |raw|.
    `square_share` is its share of the sum of y² as models see it, after the clip; `raw_square_share` that of raw².
    `largest` is |y| before the clip. A share is NaN where the sum is 0. `words` are those of the dataset's kind.
    """
    if target.output.kind not in UNBOUNDED:
        return {}
    y, raw = (labeled.table[name].to_numpy(np.float64) for name in ("y", "raw"))
    rows = int(np.ceil(TAIL_SHARE * len(y)))
    share, raw_share = _share_of_squares(y, rows), _share_of_squares(raw, rows)
    tails = {
        "rows": rows,
        "square_share": share,
        "raw_square_share": raw_share,
        "largest": labeled.largest,
        "clipped_share": labeled.clipped / len(y),
    }
    warnings = []
    if share > MAX_SQUARE_SHARE:
        warnings.append(
            f"{target.name}: {rows} of {len(y)} labels have {share:.0%} of the sum of y² (of raw returns "
            f"{raw_share:.0%}), above {MAX_SQUARE_SHARE:.0%}: models learn these few rows; {words.wide_tails}"
        )
    elif raw_share > MAX_SQUARE_SHARE:
        warnings.append(
            f"{target.name}: {rows} of {len(raw)} raw returns have {raw_share:.0%} of their sum of squares, above "
            f"{MAX_SQUARE_SHARE:.0%}; the largest |y| before the clip is {labeled.largest:.3g}: check these bars for "
            "bad prints or splits that are not adjusted"
        )
    warnings = [words.adapt(warning) for warning in warnings]
    for warning in warnings:
        log.warning(warning)
    return {"tails": tails, "warnings": warnings}


def _share_of_squares(values: np.ndarray, rows: int) -> float:
    """Return the share of the sum of squares in the `rows` largest of them; NaN where the sum is 0."""
    square = values**2
    square.sort()
    return float(square[-rows:].sum() / square.sum()) if square.any() else float("nan")


def _summarize_y(y: np.ndarray, output: Output) -> dict[str, float]:
    """Return the share of each class; mean and standard deviation of a regression target."""
    if output.is_classification:
        shares = np.bincount(y, minlength=len(output.names)) / max(len(y), 1)
        return dict(zip(output.names, shares, strict=True))
    return {"mean": float(y.mean()), "std": float(y.std())} if len(y) else {}


if __name__ == "__main__":
    cli.run(main)
