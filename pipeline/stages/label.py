"""label <dataset>: for each target of the dataset what came true, and the bar by which it had."""

import numpy as np
import pandas as pd

from pipeline import labels, workspace


def main(dataset: str) -> None:
    """Label the clean bars of a dataset with every target."""
    targets = workspace.entry(workspace.params(), f"datasets.{dataset}.targets")
    bars = pd.read_parquet(workspace.CLEAN / f"{dataset}.parquet")
    report = {}
    with workspace.replacing(workspace.LABELS / dataset) as folder:
        folder.mkdir()
        for target, block in targets.items():
            labelled = labels.build(bars, block)
            workspace.write_table(folder / f"{target}.parquet", table(labelled))
            report[target] = summary(labelled, block["kind"], bars=len(bars))
    workspace.write_json(workspace.report("label", dataset), report)


def table(labelled: labels.Labels) -> pd.DataFrame:
    """What is kept of labels; `raw` in float32, for the last bits of a logarithm differ between processors."""
    return labelled.table.drop(columns="row").astype({"raw": np.float32})


def summary(labelled: labels.Labels, kind: str, *, bars: int) -> dict[str, object]:
    """Where every bar went, how long labels are, and how the answers are spread."""
    table = labelled.table
    y, names = table["y"].to_numpy(), labels.OUTPUTS[kind]
    spread: dict[str, float]
    if len(names) > 1:
        spread = dict(zip(names, np.bincount(y, minlength=len(names)) / max(len(y), 1), strict=True))
    else:
        spread = {"mean": float(y.mean()), "std": float(y.std())} if len(y) else {}
    length_ms = (table["label_end"] - table["time"]).to_numpy()
    return {
        "bars": bars,
        "rows": len(table),
        "lost": labelled.lost,
        "ties": labelled.ties,
        "mean_length_ms": float(length_ms.mean()) if len(y) else float("nan"),
        "y": spread,
    }


if __name__ == "__main__":
    workspace.run(main)
