"""The search for hyperparameters: its space, its folds, its trials, and what `train` reads of it."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline import artifacts, config
from pipeline.cluster import machine
from pipeline.config import ModelBlock, ParamsError
from pipeline.digests import ArtifactError
from pipeline.evaluation.trials import digest_parameters
from pipeline.evaluation.voting import describe_member
from pipeline.models import base, cross_fit, plugins, tuned
from pipeline.models.cross_fit import FitTask, ModelSpec, fit_fold, plan_fits
from pipeline.models.predictions import FINAL, name_split
from pipeline.models.tuning import study
from pipeline.models.tuning.inner_folds import make_inner_folds
from pipeline.models.tuning.search_space import Range, describe_space, list_searched, parse_space, suggest
from pipeline.models.tuning.study import TuneSettings, check_space, search
from pipeline.reporting import tuning_plots
from pipeline.reporting.tear_sheet import search_page
from pipeline.reporting.tear_sheet.blocks import Section
from pipeline.reporting.tear_sheet.page import render_page
from pipeline.samples import Samples
from pipeline.stages import train, tune
from tests.data import OUTPUTS, make_dataset, plant_samples
from tests.params import PARAMS

ROOT = Path(__file__).parents[1]
BLOCK = PARAMS["disabled_models"]["tuned"]["lightgbm_tuned"]
SMALL_LEAVES = {"min_data_in_leaf": {"low": 5, "high": 50}}
BLOCK_OF_SMALL_DATA = BLOCK | {"hyperparameters": BLOCK["hyperparameters"] | SMALL_LEAVES}
SPACE = {
    **dict.fromkeys(("learning_rate", "feature_fraction", "bagging_fraction"), 0.5),
    **{"loss": "l2", "lambda_l2": 1.0, "max_bin": 15},
    "num_leaves": Range(2, 31, log=True, step=None, is_whole=True),
    "min_data_in_leaf": Range(5, 500, log=True, step=None, is_whole=True),
}
SAMPLES = plant_samples("return", seed=1)
SHAPE = base.Signature(columns=SAMPLES.columns, output=OUTPUTS["return"])
SHARED = {"num_boost_round": 3, "early_stopping_rounds": 3}
SPEC = ModelSpec(ModelBlock("trees", {**BLOCK, "plugin": "lightgbm"}, "lightgbm_tuned"), SHAPE, SHARED)
SETTINGS = TuneSettings(n_trials=6, n_startup_trials=3, sampler="tpe", groups=2, metric="ic", pruner_startup_trials=2)
DATA = make_dataset(SAMPLES, kind="return")
MEASURE = partial(tune.measure, metric="ic")


def list_tasks() -> list[FitTask]:
    every = np.ones(len(SAMPLES.time), bool)
    return list(plan_fits(DATA.folds, "lightgbm_tuned", [42], every, every, valid_pct=0.15))


FIRST, FINAL_TASK = list_tasks()[0], list_tasks()[-1]


def run(task: FitTask = FIRST, *, samples: Samples = SAMPLES, measure=MEASURE, storage: Path | None = None, **changes):
    settings = replace(SETTINGS, **changes)
    data = replace(DATA, samples=samples)
    return search(task, SPEC, data, space=SPACE, settings=settings, valid_pct=0.15, measure=measure, storage=storage)


@pytest.fixture(scope="module")
def searched() -> study.Search:
    return run()


class Middle:
    """A trial that takes the middle of a range and the last choice, and remembers what it suggested."""

    def __init__(self):
        self.names = []

    def suggest_int(self, name, low, high, *, step, log):
        self.names.append(name)
        return (low + high) // 2

    def suggest_float(self, name, low, high, *, step, log):
        self.names.append(name)
        return (low + high) / 2

    def suggest_categorical(self, name, choices):
        self.names.append(name)
        return choices[-1]


def test_a_choice_that_is_a_section_has_ranges_of_its_own_that_are_searched_where_it_is_chosen():
    block = {
        "window": 8,
        "cell": {"choices": ["gru", "lstm"]},
        "optimizer": {"name": "adamw", "learning_rate": {"low": 0.1, "high": 0.3, "log": True}},
        "schedule": {"choices": [{"name": "constant"}, {"name": "cosine", "eta_min": {"low": 0.0, "high": 1.0}}]},
    }
    space = parse_space(block, name="block")
    names = ["cell", "optimizer.learning_rate", "schedule", "schedule.cosine.eta_min"]
    trial = Middle()
    assert suggest(space, trial) == {
        "window": 8,
        "cell": "lstm",
        "optimizer": {"name": "adamw", "learning_rate": 0.2},
        "schedule": {"name": "cosine", "eta_min": 0.5},
    }
    assert trial.names == list(list_searched(space)) == names
    assert describe_space(space)["schedule"] == {"choices": ["constant", "cosine"]}
    trial.suggest_categorical = lambda name, choices: choices[0]
    assert suggest(space, trial)["schedule"] == {"name": "constant"}


WRONG = [
    ({"low": 1, "high": 1}, "a is {'low': 1, 'high': 1}; low is not below high"),
    ({"low": 0.0, "high": 1.0, "log": True}, "log needs a low above 0"),
    ({"low": 0.1, "high": 1.0, "log": True, "step": 0.1}, "log and step exclude each other"),
    ({"low": 1, "high": 9, "step": 0.5}, "the step of a range of whole numbers is whole"),
    ({"low": "x", "high": 9}, "a.low is 'x'; it must be a number"),
    ({"low": 1}, "a: key 'high' is missing; its keys are low, high, log, step"),
    ({"low": 1, "high": 2, "lag": 1}, "a: unknown key 'lag'; its keys are low, high, log, step"),
    ({"choices": [1]}, "a.choices is .*; it must be a list of at least 2"),
    ({"choices": [1, 1]}, "a.choices has a value twice"),
    (5, "has nothing to search; give a value as {low: 0.01"),
]


@pytest.mark.parametrize(("value", "message"), WRONG)
def test_a_search_space_that_is_not_allowed_is_named(value, message):
    with pytest.raises(ParamsError, match=message.replace("{", r"\{").replace("[", r"\[")):
        parse_space({"a": value}, name="models.tuned.x.hyperparameters")


def test_what_the_plugin_refuses_is_named_before_the_first_fit():
    space = SPACE | {"num_leaves": Range(1, 31, log=False, step=None, is_whole=True)}
    with pytest.raises(ParamsError) as refused:
        check_space(SPEC, space, name="models.tuned.lightgbm_tuned")
    assert str(refused.value) == (
        "params.yaml: models.tuned.lightgbm_tuned.hyperparameters.num_leaves is 1; it must be at least 2 (at the low "
        "end of every range, with choice 1)"
    )
    with pytest.raises(ParamsError, match=r"unknown key 'leaves'"):
        check_space(SPEC, SPACE | {"leaves": 3}, name="models.tuned.lightgbm_tuned")


@pytest.mark.parametrize("name", PARAMS["disabled_models"]["tuned"])
def test_the_search_spaces_of_params_are_allowed_by_their_plugins(name):
    block = PARAMS["disabled_models"]["tuned"][name]
    family, plugin = block["plugin"].split(".")
    spec = ModelSpec(ModelBlock(family, {**block, "plugin": plugin}, name), SHAPE, PARAMS[family])
    check_space(spec, parse_space(block["hyperparameters"], name=name), name=name)


def test_inner_folds_use_rows_of_the_outer_fit_alone_and_are_purged():
    rows = np.sort(np.concatenate([FIRST.train, FIRST.valid]))
    folds = list(make_inner_folds(DATA.folds, rows, groups=3, valid_pct=0.15))
    assert np.concatenate([fold.test for fold in folds]).tolist() == rows.tolist()
    for fold in folds:
        seen = np.concatenate([fold.train, fold.valid])
        assert np.isin(seen, rows).all()
        first, last = SAMPLES.time[fold.test].min(), SAMPLES.label_end[fold.test].max()
        before, after = SAMPLES.label_end[seen] < first, SAMPLES.time[seen] > last + DATA.folds.embargo_ms
        assert (before | after).all()
        assert (SAMPLES.label_end[fold.train] + DATA.folds.embargo_ms < SAMPLES.time[fold.valid].min()).all()


def test_a_search_that_was_killed_goes_on_to_the_same_result(searched, tmp_path):
    calls = 0

    def die(*arguments):
        nonlocal calls
        calls += 1
        if calls > 5:
            raise KeyboardInterrupt
        return MEASURE(*arguments)

    file = tmp_path / "folder/0.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(measure=die, storage=file)
    made = calls - 1
    with file.open("a") as journal:
        journal.write('{"op_code": 4, "wor')  # a line of which a part was written
    file.with_suffix(".jsonl.lock").symlink_to(file)
    calls = -1000
    assert run(measure=die, storage=file) == searched
    assert 1000 + calls < searched.fits  # those of finished trials are not repeated
    assert made + 1000 + calls <= searched.fits + 1  # but those of the trial that was interrupted are


def test_a_journal_that_another_process_uses_is_refused(tmp_path):
    file = tmp_path / "0.jsonl"
    with study.open_storage(file), pytest.raises(ArtifactError, match=r"0.jsonl: another process still searches in"):
        run(storage=file)
    with study.open_storage(file):
        assert file.read_bytes() == b""


def test_a_search_does_not_go_on_from_that_of_other_code_or_versions(monkeypatch):
    monkeypatch.setattr(tune, "hash_dataset", lambda *_: {})
    before = tune.digest_search(PARAMS, SPEC)
    assert tune.digest_search(PARAMS, SPEC) == before
    facts = machine.describe_machine({}, ())
    assert {machine.CODE, "optuna", "lightgbm", "AVX2 and FMA"} < set(facts)
    for name in facts:
        monkeypatch.setattr(tune, "describe_machine", lambda *_, name=name: {**facts, name: "other"})
        assert tune.digest_search(PARAMS, SPEC) != before


def test_only_the_rows_of_the_fit_count(searched):
    outside = np.setdiff1d(np.arange(len(SAMPLES.time)), np.concatenate([FIRST.train, FIRST.valid]))
    x, y = SAMPLES.x.copy(), SAMPLES.y.copy()
    x[outside], y[outside] = 7.0, -7.0
    assert run(samples=replace(SAMPLES, x=x, y=y)) == searched


def test_the_final_search_does_not_see_the_holdout():
    holdout = DATA.folds.predicted_holdout()
    x, y = SAMPLES.x.copy(), SAMPLES.y.copy()
    x[holdout], y[holdout] = 7.0, -7.0
    changes = {"n_trials": 2, "n_startup_trials": 1}
    assert run(FINAL_TASK, samples=replace(SAMPLES, x=x, y=y), **changes) == run(FINAL_TASK, **changes)


def test_a_trial_below_the_median_after_its_first_fold_is_pruned(searched):
    first_folds = []
    for number, trial in enumerate(searched.trials):
        complete = [each for each in searched.trials[:number] if each["state"] == "complete"]
        is_judged = len(complete) >= SETTINGS.pruner_startup_trials
        median = np.median([each["means"][0] for each in complete]) if is_judged else -np.inf
        assert (trial["state"] == "pruned") == (trial["means"][0] < median)
        first_folds.append(len(trial["means"]))
    assert searched.fits == sum(first_folds)
    best = max((t for t in searched.trials if t["state"] == "complete"), key=lambda t: t["value"])
    assert searched.value == best["value"]
    assert {name: searched.hyperparameters[name] for name in best["parameters"]} == best["parameters"]


def test_random_search_draws_the_same_first_trials_as_tpe(searched):
    drawn = run(sampler="random")
    assert [t["parameters"] for t in drawn.trials[:3]] == [t["parameters"] for t in searched.trials[:3]]
    assert drawn.trials != searched.trials


def test_a_metric_that_is_never_defined_stops_the_search_with_its_reason():
    with pytest.raises(ValueError, match=r"none of 6 trials has a defined metric \(it never varies\); narrow"):
        run(measure=lambda *_: (float("nan"), "it never varies"))
    with pytest.raises(ParamsError, match="tune.metric is log_loss; forecasts of return have ic, rank_ic, r2, mae$"):
        run(measure=partial(tune.measure, metric="log_loss"))


def run_stage(folder: Path, **environment: str) -> Path:
    """Return a folder in which the stage `tune` has run."""
    params = PARAMS | {"trees": SHARED, "models": {"tuned": {"lightgbm_tuned": BLOCK_OF_SMALL_DATA}}, "seeds": [42, 43]}
    params["tune"] = {**PARAMS["tune"], "n_trials": 2, "n_startup_trials": 1, "groups": 2}
    tasks = [*list_tasks(), *(replace(task, seed=43) for task in list_tasks())]
    with pytest.MonkeyPatch.context() as patches:
        patches.chdir(folder)
        Path("params.yaml").write_text(json.dumps(params))
        patches.setattr(tune, "load_tasks", lambda *_: (DATA, tasks))
        patches.setattr(tune, "hash_dataset", lambda *_: {})
        for name, value in environment.items():
            patches.setenv(name, value)
        tune.main("lightgbm_tuned")
    return folder


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def tuned_folder(tmp_path_factory) -> Path:
    """A folder in which the stage `tune` has run, one search after another."""
    return run_stage(tmp_path_factory.mktemp("tuned"), PIPELINE_WORKERS="1")


def test_searches_side_by_side_write_the_bytes_of_one_after_another(tuned_folder, tmp_path):
    assert read_files(run_stage(tmp_path, PIPELINE_WORKERS="2")) == (alone := read_files(tuned_folder))
    assert len(alone) == 3  # params, what was found, and all trials


def test_train_fits_every_split_with_what_was_found_for_it(tuned_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tuned_folder)
    params = config.load_params()
    monkeypatch.setattr(cross_fit, "load_tasks", lambda *_: (DATA, list_tasks()))
    plan = cross_fit.plan_cross_fit(params, "lightgbm_tuned")
    report = artifacts.read_report("tune", "lightgbm_tuned")
    assert report["inner_trials"] == 2 * 7
    for task in plan.tasks:
        assert task.hyperparameters == report["splits"][name_split(task.split)]["hyperparameters"]
    fit_fold(plan.tasks[-1], plan.spec, plan.data, folder=tmp_path)
    fitted = plugins.load(tmp_path)
    assert plan.tasks[-1].split == FINAL
    assert {name: getattr(fitted, name) for name in BLOCK["hyperparameters"]} == plan.tasks[-1].hyperparameters
    refitted = plugins.build_like(tmp_path, seed=1, hyperparameters=plan.tasks[0].hyperparameters)
    assert refitted.num_leaves == plan.tasks[0].hyperparameters["num_leaves"]
    assert refitted.num_boost_round == 3
    assert not (tuned_folder / tune.FOLDER / "lightgbm_tuned").exists()


def test_a_tuned_model_is_one_trial_whose_parameters_are_those_of_the_procedure(tuned_folder, monkeypatch):
    monkeypatch.chdir(tuned_folder)
    params = config.load_params()
    found = train.list_parameters(params, "lightgbm_tuned", market={})
    report = train.describe_tuning(params, "lightgbm_tuned", parameters=found)
    assert report["parameters"]["hyperparameters"] == BLOCK_OF_SMALL_DATA["hyperparameters"]
    assert report["parameters"]["shared"] == SHARED
    assert (report["parameters"]["tune"], report["parameters"]["inner_trials"]) == (params["tune"], 14)
    other = {**report["parameters"], "tune": {**params["tune"], "n_trials": 3}}
    assert digest_parameters(other) != digest_parameters(report["parameters"])


def test_what_was_found_for_other_splits_is_refused(tuned_folder, monkeypatch):
    monkeypatch.chdir(tuned_folder)
    with pytest.raises(
        ValueError, match=r"tune/lightgbm_tuned.json is of the splits 0, 1, .*, final; there are final, 0"
    ):
        tuned.read_hyperparameters("lightgbm_tuned", splits={0, FINAL})


def test_a_model_that_is_not_tuned_is_refused(tuned_folder, monkeypatch):
    params = PARAMS
    monkeypatch.setattr(config, "load_params", lambda: params)
    with pytest.raises(ParamsError, match=r"models.trees.lightgbm is not tuned; entries of models.tuned are"):
        tune.main("lightgbm")
    block = {**BLOCK, "plugin": "lightgbm"}
    with pytest.raises(
        ParamsError, match=r"plugin is 'lightgbm'; it must be <family>.<plugin>, such as trees.lightgbm"
    ):
        tuned.find_fitted({**PARAMS, "models": {"tuned": {"x": block}}}, "x")


def test_an_error_of_a_tuned_model_names_its_own_section():
    params = {**PARAMS, "models": {"tuned": {"x": {**BLOCK, "plugin": "trees.lightgbmm"}}}}
    with pytest.raises(ParamsError, match=r"models.tuned.x: unknown plugin 'lightgbmm' of family 'trees'; there are"):
        cross_fit.load_tasks(params, "x")


def test_a_tuned_member_of_an_ensemble_has_the_window_of_its_block():
    nets = {"gru_tuned": PARAMS["disabled_models"]["tuned"]["gru_tuned"]}
    params = {**PARAMS, "models": {"tuned": nets}}
    assert describe_member(params, "tuned", "gru_tuned", weight=1.0).window == 8
    searched = {**nets["gru_tuned"]["hyperparameters"], "window": {"choices": [4, 8]}}
    params["models"] = {"tuned": {"gru_tuned": {**nets["gru_tuned"], "hyperparameters": searched}}}
    with pytest.raises(ParamsError, match=r"models.tuned.gru_tuned.hyperparameters.window is searched; a member of"):
        describe_member(params, "tuned", "gru_tuned", weight=1.0)


def test_pictures_show_every_trial_of_the_final_search(tuned_folder, monkeypatch):
    monkeypatch.chdir(tuned_folder)
    details = artifacts.read_report("tune/details", "lightgbm_tuned")
    figures = tuning_plots.plot_search(details, title="search")
    assert list(figures) == ["parallel_coordinates", "slices", "importances"]
    assert "No importances" in figures["importances"].axes[0].get_title(loc="left")
    scale = {"low": 1.0, "high": 100.0, "log": True}
    assert tuning_plots.find_place({"parameters": {"a": 10.0}}, "a", scale) == pytest.approx(0.5)
    assert tuning_plots.find_place({"parameters": {"a": "y"}}, "a", {"choices": ["x", "y", "z"]}) == 0.5
    assert np.isnan(tuning_plots.find_place({"parameters": {}}, "a", scale))
    drawn = sum(len(points.get_offsets()) for points in figures["slices"].axes[0].collections)
    assert drawn == 2
    assert tuning_plots.plot_search(None, title="") == {}


def test_pictures_name_what_they_leave_out_and_ticks_have_no_exponents():
    trials = [
        {"state": "complete", "value": 0.2, "means": [0.1, 0.2], "parameters": {"leaves": 316}},
        {"state": "pruned", "value": None, "means": [0.0], "parameters": {"leaves": 50}},
        {"state": "pruned", "value": None, "means": [], "parameters": {"leaves": 1900}},  # of an undefined metric
    ]
    space = {"leaves": {"low": 50, "high": 2000, "log": True}}
    searches = {"final": {"trials": trials, "importances": {}}}
    details = {"metric": "ic", "direction": "maximize", "space": space, "searches": searches}
    figures = tuning_plots.plot_search(details, title="search")
    parallel, slices = figures["parallel_coordinates"], figures["slices"]
    assert parallel.axes[0].get_title(loc="left") == "search, 1 complete of 3 trials; gray: pruned"
    assert slices.get_suptitle() == "search, 2 of 3 trials; orange: pruned, by the folds before"
    assert [tick.get_text() for tick in slices.axes[0].get_xticklabels()] == ["50", "320", "2000"]


def test_the_page_holds_the_pictures_of_a_search_and_its_policy_allows_them(tuned_folder, monkeypatch):
    monkeypatch.chdir(tuned_folder)
    training = {"tuning": artifacts.read_report("tune/details", "lightgbm_tuned")}
    model = SimpleNamespace(name="lightgbm_tuned", training=training)
    (table, best), figures = search_page.tabulate_search(model), search_page.draw_search(model)
    final = artifacts.read_report("tune", "lightgbm_tuned")["splits"]["final"]["hyperparameters"]
    assert {row[0]: row[-1] for row in best.rows}["num_leaves"] == str(final["num_leaves"])
    assert {row[0]: row[-1] for row in best.rows}["lambda_l2"] == f"{final['lambda_l2']:.3g}"
    assert [row[:3] for row in table.rows] == [[str(name), "2", "0"] for name in (*range(6), "final")]
    page = render_page("report", [Section("model", "model", [table, *figures])])
    assert page.count('<img alt="Search, ') == page.count('src="data:image/png;base64,') == 3
    assert "img-src data:" in page
    assert "img-src" not in render_page("report", [Section("model", "model", [table])])
    untuned = SimpleNamespace(name="lightgbm", training={})
    assert (search_page.tabulate_search(untuned), search_page.draw_search(untuned)) == ([], [])


def test_the_page_names_the_best_trial_of_a_loss_and_what_it_does_not_have():
    trials = [
        {"state": "complete", "value": 0.3, "parameters": {"cell": "gru", "decay": 0.01234}},
        {"state": "complete", "value": 0.2, "parameters": {"cell": "lstm"}},
        {"state": "pruned", "value": None, "parameters": {"cell": "gru", "decay": 0.5}},
    ]
    space = {"cell": {"choices": ["gru", "lstm"]}, "decay": {"low": 0.0, "high": 1.0, "log": False}}
    searches = {"0": {"trials": trials, "importances": {}}, "final": {"trials": trials[:1], "importances": {}}}
    tuning = {"metric": "mae", "direction": "minimize", "space": space, "searches": searches}
    counts, best = search_page.tabulate_search(SimpleNamespace(name="m", training={"tuning": tuning}))
    assert counts.rows == [["0", "3", "1", "0.2"], ["final", "1", "0", "0.3"]]
    assert best.head == ["hyperparameter", "0", "final"]
    assert best.rows == [["cell", "lstm", "gru"], ["decay", "–", "0.0123"]]


def test_only_the_module_of_the_search_imports_optuna():
    importing = [file for file in (ROOT / "pipeline").rglob("*.py") if "import optuna" in file.read_text()]
    assert [file.relative_to(ROOT).as_posix() for file in importing] == ["pipeline/models/tuning/study.py"]
