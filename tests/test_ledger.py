"""The ledger: what makes two trials the same, which markets count together, and where harvesting finds records."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import artifacts
from pipeline.digests import ArtifactError
from pipeline.evaluation import experiments, ledger, ledger_lines, trials
from pipeline.evaluation.ledger import Ledger
from pipeline.evaluation.population import Population
from pipeline.stages import compare

DAY, MINUTE = 86_400_000, 60_000
HOURS = 3_600_000 * np.arange(24 * 40)


def make_market(days: int = 30, *, first: int = 0, symbol: str = "BTCUSDT", seed: int = 1) -> trials.Market:
    """Return the market of random closes at each hour; the same seed has the same closes on the same days."""
    closes = np.random.default_rng(seed).normal(100, 1, len(HOURS))
    chosen = slice(24 * first, 24 * (first + days))
    return trials.describe_market(np.full(24 * days, symbol), HOURS[chosen], closes[chosen])


def make_trial(market: trials.Market, *, model: str = "a", mean: float = 0.0, **parameters: object) -> trials.Trial:
    """Return the trial of some parameters on the days of a market."""
    first = min(prices.first_day for prices in market.prices.values())
    time = DAY * first + 3_600_000 * np.arange(24 * 30)
    seed = trials.digest_json(parameters)
    net = np.random.default_rng(int(seed, 16)).normal(mean, 0.01, len(time))
    return trials.make_trial(
        "trial",
        {"model": model, "seeds": [1]} | parameters,
        market,
        target="return_5",
        time_ms=time,
        net=net,
        bars_per_year=8760,
        risk_free_rate=0.0,
    )


def list_lines(*entries: trials.Trial) -> list[trials.Line]:
    return [entry.make_line() for entry in entries]


def count_trials(own: trials.Trial, lines: list[trials.Line]) -> int:
    """Return N of a model on the market of its trial."""
    return len(Population({own.model: own}, Ledger.from_lines(lines).list_others([own])).trials)


def test_a_trial_survives_its_line():
    market = make_market()
    trial = make_trial(market, leaves=3)
    (found,) = Ledger.from_lines(trials.parse_lines(trials.render_lines(list_lines(trial)), source="x")).trials
    assert found.sample.sharpe == pytest.approx(trial.sample.sharpe, rel=1e-7)
    assert (found.digest, found.market, found.daily) == (trial.digest, market, trial.daily)


def test_the_daily_returns_compound_the_bars_of_a_utc_day():
    time = np.array([0, DAY - 1, DAY, 3 * DAY])
    first, daily = trials.record_daily(time + 5 * DAY, np.array([0.1, 0.2, -0.5, 0.3]))
    assert (first, daily) == (5, (pytest.approx(0.32), -0.5, None, pytest.approx(0.3)))


def test_other_parameters_or_another_seed_are_another_trial_and_a_repeat_is_none():
    market = make_market()
    base, leaves, seed = (make_trial(market, **given) for given in ({}, {"leaves": 3}, {"seeds": [2]}))
    lines = list_lines(base, leaves, seed, base)
    assert count_trials(base, lines) == 3
    assert base.digest_without_seed == seed.digest_without_seed != leaves.digest_without_seed
    assert len(ledger.merge_lines(lines, lines)) == 3


def test_a_tuned_procedure_is_one_trial_of_the_comparison_and_what_it_tried_is_outside_of_n(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    market = make_market()
    space = {"num_leaves": {"low": 4, "high": 63}}
    procedures = [{"hyperparameters": space, "tune": {"n_trials": n}, "inner_trials": 16 * n} for n in (20, 40)]
    models = {
        "default": make_trial(market, model="default"),
        **{f"tuned_{i}": make_trial(market, model=f"tuned_{i}", **each) for i, each in enumerate(procedures)},
    }
    monkeypatch.chdir(tmp_path)
    for number, (model, trial) in enumerate(models.items(), start=1):
        artifacts.write_record(artifacts.TRIALS / f"{model}.jsonl", trials.render_lines(list_lines(trial)))
        with monkeypatch.context() as patched:
            patched.setattr(experiments, "find_records", lambda _: [])
            population = compare.load_population(list(models)[:number], ["default"])
        assert len(population.trials) == number  # 1, then 2 and 3: not 322 and 963
    assert [each.inner_trials for each in population.trials] == [1, 1 + 320, 1 + 640]


def test_a_longer_span_counts_together_and_another_market_by_itself():
    """30 days, 31 days, the days after them, another symbol, and the same symbol with other prices."""
    markets = [
        make_market(),
        make_market(31),
        make_market(5, first=32),
        make_market(symbol="ETHUSDT"),
        make_market(seed=2),
    ]
    found = [make_trial(market, tried=i) for i, market in enumerate(markets)]
    lines = list_lines(*found)
    assert [count_trials(trial, lines) for trial in found] == [2, 2, 1, 1, 1]


def test_the_same_parameters_on_another_day_more_are_one_trial():
    markets = [make_market(), make_market(31)]
    lines = list_lines(*(make_trial(market, tried=1) for market in markets))
    assert count_trials(make_trial(markets[1], tried=1), lines) == 1
    assert len(ledger.merge_lines(lines)) == 2


def test_bars_of_another_length_are_the_same_market():
    """The last close of each day stays the same."""
    closes = np.random.default_rng(0).normal(100, 1, len(HOURS))
    coarse = slice(3, None, 4)
    fine, long = (
        trials.describe_market(np.full(len(HOURS[part]), "BTCUSDT"), HOURS[part], closes[part])
        for part in (slice(None), coarse)
    )
    assert fine == long


def test_a_population_has_the_models_first_and_their_common_days():
    market = make_market()
    own = {name: make_trial(market, model=name, tried=name) for name in ("a", "b")}
    shifted = make_trial(make_market(30, first=3), tried="shifted")
    population = Population(own, [shifted])
    assert [trial.model for trial in population.trials] == ["a", "b", "a"]
    assert population.daily.shape == (27, 3)
    assert population.estimate_effective_trials()["participation"] == pytest.approx(3, rel=0.2)
    assert Population({}, []).estimate_effective_trials() == {}


def test_trials_that_differ_in_the_seed_alone_are_found_and_a_median_of_several_seeds_is_none_of_them():
    market = make_market()
    own, other = make_trial(market, tried=1), make_trial(market, tried=1, seeds=[5])
    median = make_trial(market, tried=1, seeds=[1, 2, 3])
    assert Population({"a": own}, [other, median, make_trial(market, tried=2)]).find_seeds("a") == [own, other]


@pytest.mark.parametrize("change", [{"kind": "trail"}, {"n": "abc"}, {"daily": ["x"]}, {"sharpe": True}])
def test_a_value_of_another_type_is_refused(change: dict):
    line = make_trial(make_market()).make_line() | change
    with pytest.raises(ValueError, match="must be"):
        trials.Trial.from_line(line)


def test_a_record_that_cannot_be_read_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = tmp_path / artifacts.TRIALS
    folder.mkdir(parents=True)
    (folder / "a.jsonl").write_text(trials.render_lines([make_trial(make_market()).make_line()]))
    (folder / "b.jsonl").write_text('{"kind": "trial"}\n')
    assert len(experiments.find_records(tmp_path)) == 1
    assert "b.jsonl, line 1 is no line of a ledger" in caplog.text


def test_an_experiment_has_its_name_and_what_dvc_marks_for_itself_has_none(tmp_path: Path):
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (("init", "--quiet"), (*author, "commit", "--quiet", "--allow-empty", "--message", "one")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    (first,) = experiments.run_git(tmp_path, "rev-parse", "HEAD")
    subprocess.run(["git", "update-ref", "refs/exps/exec/EXEC_HEAD", first], cwd=tmp_path, check=True)
    assert experiments.name_experiments(tmp_path) == {}
    subprocess.run(["git", "update-ref", "refs/exps/ab/cd/leaves63", first], cwd=tmp_path, check=True)
    assert experiments.name_experiments(tmp_path) == {first: "experiment leaves63"}


def test_the_command_refuses_to_run_elsewhere(tmp_path: Path):
    assert "run it where params.yaml is" in use_ledger(tmp_path, "harvest", status=1)
    assert not (tmp_path / "trained").exists()


@pytest.mark.parametrize("text", ["{", '{"kind": "trial"}', "[]", "3"])
def test_a_damaged_line_is_named(text: str):
    with pytest.raises(ValueError, match="ledger.jsonl, line 1 is no line of a ledger"):
        trials.parse_lines(text, source="ledger.jsonl")


def test_every_flipped_bit_of_the_ledger_names_its_line_and_a_line_without_a_digest_is_for_harvest_alone(tmp_path):
    file = tmp_path / "ledger.jsonl"
    lines = list_lines(*(make_trial(make_market(2), tried=tried) for tried in (1, 2)))
    for line in lines:
        line["daily"] = line["daily"][:2]
    plain = trials.render_lines(lines)
    file.write_text(ledger_lines.add_digests(plain))
    assert ledger.read_lines(file) == lines
    content = file.read_bytes()
    for byte in range(len(content)):
        damaged = bytearray(content)
        damaged[byte] ^= 1 << byte % 8
        file.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"ledger\.jsonl, line [12] is damaged: .* run `git checkout "):
            ledger.read_lines(file)
    file.write_text(plain)
    with pytest.raises(ArtifactError, match="line 1 is damaged: no digest"):
        ledger.read_lines(file)
    assert ledger.read_lines(file, needs_digests=False) == lines
    assert ledger.read_lines(tmp_path / "absent.jsonl") == []


@pytest.mark.parametrize("days", [1, 32, 33, 90, 91, 1000])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_symbol_has_few_anchors_and_a_part_of_its_days_has_all_of_them_that_lie_in_it(days: int, share: float):
    for first in (0, 7, 19_723):
        anchors, last = trials.list_anchors(first, first + days - 1), first + max(1, int(share * days)) - 1
        assert 0 < len(anchors) <= trials.MAX_ANCHORS + 1
        assert {day for day in anchors if day <= last} <= set(trials.list_anchors(first, last))


def test_spans_without_a_common_anchor_count_together_where_their_days_overlap():
    """Nothing says that they are different markets."""
    long, short = trials.Prices(0, 999, "abcdef" * 32), trials.Prices(33, 40, "123456" * 8)
    assert long.overlaps(short)
    assert short.overlaps(long)
    assert not trials.Prices(1000, 1001, "abcdef" * 2).overlaps(long)


STAGE = """
import json
from pathlib import Path
tried = Path("params.yaml").read_text().removeprefix("tried: ").strip()
Path("trained/trials").mkdir(parents=True, exist_ok=True)
Path("trained/trials/a.jsonl").write_text(json.loads(Path("records.json").read_text())[tried])
"""
PIPELINE = """
stages:
  evaluate:
    cmd: {python} stage.py
    deps: [stage.py, records.json]
    params: [tried]
    outs:
      - trained/trials/a.jsonl
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one stage that records a trial of its parameter, after experiments of every kind."""
    root = tmp_path_factory.mktemp("ledger")
    lines = {tried: make_trial(make_market(), tried=tried).make_line() for tried in range(6)}
    records = {tried: trials.render_lines([line]) for tried, line in lines.items()}
    (root / "records.json").write_text(json.dumps(records))
    (root / "stage.py").write_text(STAGE)
    (root / "dvc.yaml").write_text(PIPELINE.format(python=sys.executable))
    (root / "params.yaml").write_text("tried: 0\n")
    run(root, "git", "init", "-q", "-b", "main")
    run(root, "git", "config", "user.email", "a@b.c")
    run(root, "git", "config", "user.name", "a")
    run(root, "dvc", "init", "-q")
    run(root, "dvc", "config", "core.analytics", "false")
    run(root, "dvc", "repro", "-q")
    run(root, "git", "add", ".")
    run(root, "git", "commit", "-qm", "0")
    run(root, "dvc", "exp", "run", "-q", "-n", "one", "-S", "tried=1")
    run(root, "dvc", "exp", "run", "-q", "--temp", "-S", "tried=2")
    for tried in (3, 4):
        run(root, "dvc", "exp", "run", "-q", "--queue", "-S", f"tried={tried}")
    run(root, "dvc", "exp", "run", "-q", "--run-all", "--jobs", "2")
    run(root, "dvc", "exp", "run", "-q", "-S", "tried=1")  # a repeat
    run(root, "dvc", "exp", "branch", "one", "kept")
    (root / "params.yaml").write_text("tried: 5\n")
    run(root, "dvc", "repro", "-q")  # no experiment: only the workspace and the run cache know it
    (root / "params.yaml").write_text("tried: 0\n")
    run(root, "dvc", "repro", "-q")
    return root


def run(root: Path, *command: str, status: int = 0) -> str:
    """Run a command of the environment in a folder and return what it writes."""
    program = Path(sys.executable).parent / command[0]
    done = subprocess.run(
        [str(program) if program.exists() else command[0], *command[1:]], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def use_ledger(root: Path, command: str, *, status: int = 0) -> str:
    return run(root, "python", "-m", "pipeline.evaluation.ledger", command, status=status)


def test_harvesting_finds_every_set_of_parameters_once_wherever_it_was_run(repository: Path):
    assert "the ledger lacks 6 trials or looks" in use_ledger(repository, "check", status=1)
    said = use_ledger(repository, "harvest")
    assert "6 new; the ledger has 6 trials and 0 looks at a holdout" in said
    assert "from experiment" in said
    assert "from the run cache" in said
    lines = [json.loads(line) for line in (repository / artifacts.LEDGER).read_text().splitlines()]
    assert len(lines) == 6
    assert all(len(line["sha256"]) == 64 for line in lines)
    assert [line["digest"] for line in lines] == sorted(line["digest"] for line in lines)
    before = (repository / artifacts.LEDGER).read_bytes()
    assert use_ledger(repository, "harvest").startswith("0 new")
    assert (repository / artifacts.LEDGER).read_bytes() == before
    use_ledger(repository, "check")
    run(repository, "dvc", "exp", "remove", "-A")
    run(repository, "git", "branch", "-D", "kept")
    assert use_ledger(repository, "harvest").startswith("0 new; the ledger has 6 trials")
