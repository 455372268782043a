"""Crash safety on disk: drafts take the place of results as a whole, whatever stops the process that writes them."""

import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError

from pipeline import artifacts, cli
from pipeline.models.fit_files import remove_checkpoints
from pipeline.models.live_metrics import LiveMetrics


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )


def test_two_writers_at_once_end_with_one_whole_file_of_either(tmp_path):
    file = tmp_path / "table.json"
    with artifacts.replace_atomically(file) as first, artifacts.replace_atomically(file) as second:
        assert first != second
        second.write_text("second")
        first.write_text("first, longer")
    assert file.read_text() == "first, longer"  # the second was published first, as it ended first
    assert list(tmp_path.iterdir()) == [file]


def test_many_writers_of_one_folder_end_with_one_whole_folder(tmp_path):
    folder = tmp_path / "model"

    def write(number: int) -> None:
        for _ in range(20):
            with artifacts.replace_atomically(folder) as draft:
                draft.mkdir()
                for name in ("weights", "description"):
                    (draft / name).write_text(str(number))

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(4)))
    assert (folder / "weights").read_text() == (folder / "description").read_text()
    assert list(tmp_path.iterdir()) == [folder]


def test_a_file_replaces_a_folder_and_a_folder_a_file(tmp_path):
    path = tmp_path / "result"
    with artifacts.replace_atomically(path) as draft:
        draft.mkdir()
        (draft / "part").touch()
    artifacts.write_text(path, "text")
    assert path.read_text() == "text"
    with artifacts.replace_atomically(path) as draft:
        draft.mkdir()
    assert path.is_dir()
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal
from pathlib import Path
from pipeline import artifacts
with artifacts.replace_atomically(Path("report.json")) as draft:
    draft.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_draft_of_a_killed_process_is_removed_by_the_next_writer_and_that_of_a_running_one_stays(tmp_path):
    file = tmp_path / "report.json"
    file.write_text("whole")
    assert run_python(KILLED, tmp_path).returncode == -signal.SIGKILL
    (abandoned,) = tmp_path.glob(".report.json.*.draft")
    assert file.read_text() == "whole"
    with artifacts.replace_atomically(file) as running:
        assert not abandoned.exists()
        artifacts.write_text(file, "another")
        assert running.parent.exists()
        running.write_text("last")
    assert file.read_text() == "last"
    assert list(tmp_path.iterdir()) == [file]


def test_drafts_have_names_that_git_and_dvc_ignore_and_that_no_pattern_of_results_finds(tmp_path):
    root = Path(__file__).parents[1]
    assert ".*.draft" in (root / ".dvcignore").read_text().splitlines()
    assert ".*.draft" in (root / "trained/.gitignore").read_text().splitlines()
    with artifacts.replace_atomically(tmp_path / "return_5.parquet") as draft:
        assert draft.name == "return_5.parquet"
        assert Path(f"x/{draft.parent.name}").match(".*.draft")
        assert list(tmp_path.glob("*.parquet")) == []
        draft.touch()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_an_error_of_the_disk_at_any_write_names_the_file_and_leaves_it_as_it_was(code, tmp_path, monkeypatch):
    file = tmp_path / "table.parquet"
    table = pd.DataFrame({"x": [1.0]})
    artifacts.write_table(file, table)
    before = file.read_bytes()
    for name in ("mkdir", "open", "fsync", "replace"):
        with monkeypatch.context() as patched:
            owner = os if name in ("open", "fsync") else Path

            def refuse(*args, **kwargs):
                raise OSError(code, os.strerror(code))

            patched.setattr(owner, name, refuse)
            with pytest.raises(OSError, match="table") as refused:
                artifacts.write_table(file, table)
        assert (refused.value.errno, refused.value.filename) == (code, str(file)), name
        assert file.read_bytes() == before
    artifacts.write_table(file, table)
    assert list(tmp_path.iterdir()) == [file]


FULL = """
import resource
from pathlib import Path
import numpy as np, pandas as pd
from pipeline import artifacts, cli
def main():
    artifacts.write_table(Path("table.parquet"), pd.DataFrame({"x": np.random.default_rng(0).random(5000)}))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
cli.run(main)
"""


def test_a_file_that_cannot_grow_is_one_message_with_exit_status_1_and_nothing_is_lost(tmp_path):
    (tmp_path / "table.parquet").write_text("the old table")
    done = run_python(FULL, tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "-c: table.parquet: File too large; raise the largest size of a file, such as by `ulimit -f unlimited`, "
        "then start again: what was finished is not lost"
    )
    assert "Traceback" not in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["table.parquet"]
    assert (tmp_path / "table.parquet").read_text() == "the old table"


SHARED = """
import resource
import numpy as np
from joblib import delayed
from pipeline import cli
from pipeline.models.parallel_fits import run_in_parallel
def main():
    jobs = [delayed(len)(np.arange(1e6)) for _ in range(2)]
    list(run_in_parallel(jobs, workers=2, total=2, desc="train lstm"))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
cli.run(main)
"""


def test_data_that_no_disk_can_hold_for_the_workers_is_one_line_that_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(tmp_path))
    done = run_python(SHARED, tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert done.stderr.splitlines()[-1] == (
        "-c: the data of train lstm could not be shared with the workers (OSError: [Errno 27] File too large): "
        f"free space in {tmp_path}, or set JOBLIB_TEMP_FOLDER to a folder with space; "
        "where memory ran out, set PIPELINE_WORKERS=1; "
        "then start again: nets and agents go on from their checkpoints"
    )


def test_a_line_of_live_metrics_that_a_full_disk_refuses_names_its_file():
    metrics = LiveMetrics(Path("/dev/full"), labels={"split": 0}, fields=("loss",))
    with pytest.raises(OSError, match="/dev/full") as refused:
        metrics.append_new([{"loss": 1.0}])
    assert refused.value.errno == errno.ENOSPC


def run_stage(monkeypatch, error: BaseException) -> str:
    def main() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["stage.py"])
    with pytest.raises(SystemExit) as stopped:
        cli.run(main)
    return str(stopped.value.code)


def test_a_killed_worker_and_memory_that_ran_out_are_one_line_each(monkeypatch):
    killed = TerminatedWorkerError("A worker process was terminated.\n\nThe exit codes are {SIGKILL(-9)}")
    remedy = (
        "where memory ran out, set PIPELINE_WORKERS=1; then start again: nets and agents go on from their checkpoints"
    )
    assert run_stage(monkeypatch, killed) == (
        f"stage: A worker process was terminated. The exit codes are {{SIGKILL(-9)}}; {remedy}"
    )
    assert (
        run_stage(monkeypatch, MemoryError("Unable to allocate 9 TiB")) == f"stage: Unable to allocate 9 TiB; {remedy}"
    )


def test_an_interrupted_stage_says_so_in_one_line(monkeypatch, caplog):
    assert run_stage(monkeypatch, KeyboardInterrupt()) == "130"
    assert caplog.messages == ["stage: interrupted; start again: nets and agents go on from their checkpoints"]


def test_an_error_of_the_disk_is_one_line_and_another_one_names_the_line_that_raised_it(monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device", "trained/oos/lstm.parquet")
    assert run_stage(monkeypatch, full) == (
        "stage: trained/oos/lstm.parquet: No space left on device; free space on this disk, "
        "then start again: what was finished is not lost"
    )
    assert "(raised at " in run_stage(monkeypatch, ValueError("a wrong value"))


def test_checkpoints_are_removed_and_a_draft_of_another_process_stays(tmp_path):
    folder = tmp_path / "lstm"
    for name in ("0-1.pt", "0-2.pt"):
        artifacts.write_text(folder / name, "state")
    with artifacts.replace_atomically(folder / "0-1.pt") as draft:
        remove_checkpoints(folder)
        draft.write_text("state of another process")
    assert [file.name for file in folder.iterdir()] == ["0-1.pt"]
    remove_checkpoints(folder)
    assert not folder.exists()
    remove_checkpoints(folder)


def test_a_link_is_removed_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    artifacts.remove(tmp_path / "link")
    assert [file.name for file in tmp_path.iterdir()] == ["data"]


def test_a_draft_has_the_suffix_by_which_numpy_knows_its_format(tmp_path):
    with artifacts.replace_atomically(tmp_path / "a.npz") as draft:
        np.savez(draft, x=np.arange(3))
    with np.load(tmp_path / "a.npz") as loaded:
        assert loaded["x"].tolist() == [0, 1, 2]
