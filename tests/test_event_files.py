"""Event files hold the histories of fits, as TensorBoard itself reads them."""

import importlib.util
import sys
from pathlib import Path

import pytest

from pipeline.reporting import event_files

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="event files need the extra `tensorboard`"
)
HISTORY = """\
seed,split,iteration,train_loss,valid_loss,episode_return
42,0,1,0.75,0.5,
42,0,2,0.5,0.375,-0.25
42,1,1,0.625,0.25,
42,-1,1,0.125,,
"""


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    (tmp_path / "trained/history").mkdir(parents=True)
    (tmp_path / "trained/history/d4pg.csv").write_text(HISTORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    found = EventAccumulator(str(folder)).Reload()
    tags = found.Tags()["tensors"]
    return {tag: [(e.step, float(make_ndarray(e.tensor_proto))) for e in found.Tensors(tag)] for tag in tags}


@needs_tensorboard
def test_each_fit_is_a_run_with_a_scalar_at_each_iteration_that_has_one(root, capsys):
    event_files.main()
    event_files.main()  # anew, not twice
    assert capsys.readouterr().out.splitlines()[-1] == "3 fits, 8 values: tensorboard --logdir trained/event_files"
    folder = root / "trained/event_files/d4pg/seed_42"
    assert {run.name: read_scalars(run) for run in folder.iterdir()} == {
        "split_0": {
            "train_loss": [(1, 0.75), (2, 0.5)],
            "valid_loss": [(1, 0.5), (2, 0.375)],
            "episode_return": [(2, -0.25)],
        },
        "split_1": {"train_loss": [(1, 0.625)], "valid_loss": [(1, 0.25)]},
        "final": {"train_loss": [(1, 0.125)]},
    }


def test_without_a_history_or_the_package_the_command_says_what_to_do(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    with pytest.raises(SystemExit, match=r"event files need tensorboard.summary; run `pip install .*\[tensorboard\]'`"):
        event_files.main()
    (root / "trained/history/d4pg.csv").unlink()
    with pytest.raises(SystemExit, match="trained/history has no history; run `dvc repro`"):
        event_files.main()
    assert not (root / "trained/event_files").exists()
