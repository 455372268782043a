"""label <dataset>: compute the labels of every target of a dataset, with the bar at which each label ends."""

from types import ModuleType

import numpy as np
import pandas as pd

from pipeline import artifacts, cli, config
from pipeline.datasets import kinds
from pipeline.labels import Labels
from pipeline.targets import Output, Target


def main(dataset: str) -> None:
    """Label the clean bars of a dataset with every target."""
    params = config.load_params()
    kind, clock = (kinds.import_part(params, dataset, part) for part in ("label", "clock"))
    targets = config.look_up(params, f"datasets.{dataset}.targets")
    if not isinstance(targets, dict) or not targets:
        raise config.ParamsError(f"datasets.{dataset}.targets is {targets!r}; name one or more")
    bars = pd.read_parquet(artifacts.CLEAN / f"{dataset}.parquet")
    report = {}
    with artifacts.replace_atomically(artifacts.LABELS / dataset) as folder:
        folder.mkdir()
        for target, block in targets.items():
            labeled = label_target(kind, bars, target, block, name=f"datasets.{dataset}.targets.{target}")
            described = kind.describe_target(block, name=target, path=f"datasets.{dataset}.targets.{target}")
            table = select_columns(labeled)
            table.attrs.update(described.attributes)
            artifacts.write_table(folder / f"{target}.parquet", table)
            report[target] = summarize_labels(labeled, described, bars=len(bars), unit=clock.UNIT)
    artifacts.write_json(artifacts.report_path("label", dataset), report)


def label_target(kind: ModuleType, bars: pd.DataFrame, target: object, block: object, *, name: str) -> Labels:
    """Return the labels of one target; ParamsError where its name or its section is wrong, or no bar has a label."""
    config.check_name(target, owner=name.rpartition(".")[0])
    if not isinstance(block, dict):
        raise config.ParamsError(f"{name} is {block!r}; it must be a section with kind and its arguments")
    labeled: Labels = kind.make_labels(bars, block, name=name)
    if labeled.table.empty:
        lost = ", ".join(f"{count} by {cause}" for cause, count in labeled.lost.items())
        raise config.ParamsError(f"{name}: none of {len(bars)} bars has a label ({lost}); lower its windows")
    return labeled


def select_columns(labeled: Labels) -> pd.DataFrame:
    """Return the stored columns; `raw` as float32, since the last bits of a logarithm differ between processors."""
    return labeled.table.drop(columns="row").astype({"raw": np.float32})


def summarize_labels(labeled: Labels, target: Target, *, bars: int, unit: str) -> dict[str, object]:
    """Return the number of bars with a label, and without one by cause, the mean label length and y's distribution."""
    y = labeled.table["y"].to_numpy()
    length = (labeled.table["label_end"] - labeled.table["time"]).to_numpy()
    return {
        "bars": bars,
        "rows": len(y),
        "lost": labeled.lost,
        "ties": labeled.ties,
        f"mean_length_{unit}": float(length.mean()) if len(y) else float("nan"),
        "y": _summarize_y(y, target.output),
    }


def _summarize_y(y: np.ndarray, output: Output) -> dict[str, float]:
    """Return the share of each class; mean and standard deviation of a regression target."""
    if output.is_classification:
        shares = np.bincount(y, minlength=len(output.names)) / max(len(y), 1)
        return dict(zip(output.names, shares, strict=True))
    return {"mean": float(y.mean()), "std": float(y.std())} if len(y) else {}


if __name__ == "__main__":
    cli.run(main)
