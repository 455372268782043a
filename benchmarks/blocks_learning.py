"""Does every block learn, and does its graph predict the same? `python benchmarks/blocks_learning.py [--models ...]`.

Every block of params.yaml that is fitted, but those of the families `pretrained` and `tuned`, is fitted to the planted
signal of the contract tests, with their sizes (tests/params.py). Printed are the correlation of its score with the
signal on rows that it has not seen, the seconds of a fit, the bytes of its ONNX graph, and the largest difference of
the graph from the model on those rows.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline.reporting import markdown
from tests.data import MORE_ROWS, ROWS, plant_signal, select_parts
from tests.params import BLOCKS, plant_samples_of
from tests.test_models import run_graph, unfitted

ENOUGH = 0.6  # of the contract tests: a block below it gets MORE_ROWS


def measure(name: str, *, rows: int) -> tuple[float, list[str]]:
    """Return the correlation on unseen rows, and the cells of the table."""
    samples = plant_samples_of(name, rows=rows)
    train, valid, test = select_parts(rows)
    model = unfitted(name, samples)
    start = time.perf_counter()
    model.fit(samples, train, valid)
    seconds = time.perf_counter() - start
    correlation = float(np.corrcoef(model.score(samples, test), plant_signal(samples.x[test]))[0, 1])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        model.to_onnx(file)
        inputs = model.inputs(samples, test[:200])
        difference = float(np.abs(run_graph(file, inputs, batch=1) - model.predict(inputs)).max())
        size = file.stat().st_size
    return correlation, [
        f"{rows:,}",
        f"{correlation:.2f}",
        f"{seconds:.1f}",
        f"{size / 1000:,.0f}",
        f"{difference:.1e}",
    ]


def main() -> None:
    """Print the Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(BLOCKS), default=list(BLOCKS))
    lines = []
    for name in parser.parse_args().models:
        correlation, cells = measure(name, rows=ROWS)
        if correlation <= ENOUGH:
            _, cells = measure(name, rows=MORE_ROWS)
        lines.append([f"`{name}`", f"`{BLOCKS[name][0]}`", *cells])
        print(*lines[-1], file=sys.stderr, flush=True)
    head = ["block", "family", "rows", "correlation", "fit, s", "graph, kB", "largest difference"]
    print(markdown.render_table(head, lines))


if __name__ == "__main__":
    main()
