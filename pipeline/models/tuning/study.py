"""The search for hyperparameters by Optuna's TPE (Akiba et al. 2019; Bergstra et al. 2011), within the rows of one fit.

A study runs its trials one after another, and several studies run side by side: trials do not depend on the number of
workers. The sampler of a trial is seeded by the number of trials before it, so that a study that was interrupted goes
on from its storage as if it had not been.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge
from pydantic import NonNegativeInt, PositiveInt

from pipeline import config
from pipeline.digests import ArtifactError
from pipeline.models.base import Model
from pipeline.models.cross_fit import FitTask, ModelSpec
from pipeline.models.dataset import LabeledDataset
from pipeline.models.predictions import name_split
from pipeline.models.tuning.inner_folds import InnerFold, make_inner_folds
from pipeline.models.tuning.search_space import list_corners, list_searched, suggest
from pipeline.samples import Samples

try:
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import FrozenTrial, TrialState
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"a search of hyperparameters needs the package {error.name}; "
        "run `pip install -c .ci/constraints.txt -e '.[tune]'`",
        name=error.name,
    ) from error

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
LOSSES = ("log_loss", "brier", "mae", "pinball_loss")  # metrics of which less is better
TOP_SHARE = 0.25  # of the trials, which PED-ANOVA compares with all: a tenth of 20 would be two
FEWEST_TRIALS = 8  # complete ones, for importances
LOCK_FILE_SUFFIX = ".lock"  # of Optuna's
UNDEFINED = "undefined"  # attribute of a trial: why it has no value

Metric = Literal["ic", "rank_ic", "r2", "accuracy", "macro_f1", "log_loss", "brier", "mae", "pinball_loss"]
Measure = Callable[[Model, Samples, np.ndarray], tuple[float, str]]  # value of the metric on rows, and why it is NaN


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """The section `tune` of params.yaml."""

    n_trials: PositiveInt  # of each search, pruned ones among them
    n_startup_trials: PositiveInt  # drawn at random, before TPE proposes
    sampler: Literal["tpe", "random"]
    groups: Annotated[int, Ge(2)]  # inner folds
    metric: Metric
    pruner_startup_trials: NonNegativeInt  # complete ones, before any is pruned

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Whether Optuna minimizes or maximizes the metric."""
        return "minimize" if self.metric in LOSSES else "maximize"


@dataclass(frozen=True)
class Search:
    """The result of one search."""

    split: int
    hyperparameters: Mapping[str, Any]
    value: float  # of the metric, the mean over the inner folds
    trials: Sequence[Mapping[str, Any]]
    importances: Mapping[str, float]  # by PED-ANOVA; empty where too few trials are complete
    fits: int


def check_space(spec: ModelSpec, space: Mapping[str, Any], *, name: str) -> None:
    """Raise ParamsError where the plugin refuses a corner of the search space of the model `name`."""
    fitted = f"models.{spec.model.family}.{spec.model.name}"
    for corner in list_corners(space):
        try:
            spec.build(0, suggest(space, corner))
        except config.ParamsError as error:
            raise config.ParamsError(f"{str(error).replace(fitted, name)} ({corner})") from None


def search(
    task: FitTask,
    spec: ModelSpec,
    data: LabeledDataset,
    *,
    space: Mapping[str, Any],
    settings: TuneSettings,
    valid_pct: float,
    measure: Measure,
    storage: Path | None = None,
) -> Search:
    """Return the best hyperparameters of a search within the rows that the fit of a task learns from.

    `storage` is a journal of Optuna; trials that it has are not repeated. `measure` returns the metric on some rows.

    Raises:
        ValueError: no trial has a defined value.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows = np.sort(np.concatenate([task.train, task.valid]))
    try:
        folds = list(make_inner_folds(data.folds, rows, groups=settings.groups, valid_pct=valid_pct))
    except ValueError as error:
        raise ValueError(f"inner folds of {name_split(task.split)}: {error}, or change tune.groups") from error
    with nullcontext() if storage is None else open_storage(storage) as journal:
        study = open_study(settings, storage=journal)
        for number in range(len(study.get_trials(states=FINISHED)), settings.n_trials):
            study.sampler = make_sampler(settings, seed=derive_trial_seed(task.fit_seed, number))
            trial = study.ask()
            hyperparameters = suggest(space, trial)
            models = [spec.build(derive_trial_seed(task.fit_seed, i), hyperparameters) for i in range(len(folds))]
            run_trial(study, trial, models=models, folds=folds, samples=data.samples, measure=measure)
        return describe_study(study, task.split, space=space)


@contextmanager
def open_storage(file: Path) -> Iterator[JournalStorage]:
    """Yield the storage that a journal of Optuna is, new or not, for this process alone.

    What a killed process left unfinished is removed first: its lock, and the part of a line.

    Raises:
        ArtifactError: another process uses the journal.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as journal:
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtifactError(
                f"{file}: another process still searches in this journal, such as a worker of a stage that was killed; "
                "end that process, or wait for it, and start again"
            ) from None
        Path(f"{file}{LOCK_FILE_SUFFIX}").unlink(missing_ok=True)
        os.truncate(file, file.read_bytes().rfind(b"\n") + 1)
        yield JournalStorage(JournalFileBackend(str(file)))


def open_study(settings: TuneSettings, *, storage: JournalStorage | None) -> optuna.Study:
    """Return a new study, or that of a storage; a trial that a killed process left there counts as failed."""
    study = optuna.create_study(
        study_name="search",
        storage=storage,
        direction=settings.direction,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=settings.pruner_startup_trials),
        load_if_exists=True,
    )
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def make_sampler(settings: TuneSettings, *, seed: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of one trial."""
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=settings.n_startup_trials, multivariate=False, constant_liar=False
    )


def derive_trial_seed(seed: int, number: int) -> int:
    """Return the seed of the trial, or of the inner fit, of this number; `seed` is that of the outer fit."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)


def run_trial(
    study: optuna.Study,
    trial: optuna.Trial,
    *,
    models: Sequence[Model],
    folds: Sequence[InnerFold],
    samples: Samples,
    measure: Measure,
) -> None:
    """Fit and measure one set of hyperparameters on every inner fold, until the pruner ends the trial.

    After each fold the pruner compares the mean so far with the median of earlier trials after as many folds. A trial
    with an undefined metric, such as the IC of a constant prediction, is pruned as well.
    """
    values: list[float] = []
    for step, (model, fold) in enumerate(zip(models, folds, strict=True)):
        model.fit(samples, fold.train, fold.valid)
        value, reason = measure(model, samples, fold.test)
        trial.set_user_attr("fits", step + 1)
        if np.isnan(value):
            trial.set_user_attr(UNDEFINED, reason)
            study.tell(trial, state=TrialState.PRUNED)
            return
        values.append(value)
        trial.report(float(np.mean(values)), step)
        if step + 1 < len(folds) and trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return
    study.tell(trial, float(np.mean(values)))


def describe_study(study: optuna.Study, split: int, *, space: Mapping[str, Any]) -> Search:
    """Return the result of a finished study."""
    finished = study.get_trials(states=FINISHED)
    complete = [trial for trial in finished if trial.state == TrialState.COMPLETE]
    if not complete:
        reasons = sorted({str(trial.user_attrs.get(UNDEFINED)) for trial in finished})
        raise ValueError(
            f"none of {len(finished)} trials has a defined metric ({'; '.join(reasons)}); narrow the search space"
        )
    best = study.best_trial
    return Search(
        split=split,
        hyperparameters=suggest(space, optuna.trial.FixedTrial(best.params)),
        value=float(best.values[0]),
        trials=[describe_trial(number, trial) for number, trial in enumerate(finished)],
        importances=measure_importances(study, names=list_common(complete, list_searched(space))),
        fits=sum(int(trial.user_attrs["fits"]) for trial in finished),
    )


def describe_trial(number: int, trial: FrozenTrial) -> dict[str, Any]:
    """Return the record of a trial: what it tried, and its mean metric after each inner fold."""
    means = [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]
    value = trial.values[0] if trial.state == TrialState.COMPLETE and trial.values else None
    return {
        "number": number,
        "state": trial.state.name.lower(),
        "value": value,
        "means": means,
        "undefined": trial.user_attrs.get(UNDEFINED),
        "parameters": trial.params,
    }


def list_common(trials: Sequence[FrozenTrial], searched: Mapping[str, Any]) -> list[str]:
    """Return the names that every trial has, and that vary: those of conditional parts are left out."""
    return [
        name
        for name in searched
        if all(name in trial.params for trial in trials) and len({trial.params[name] for trial in trials}) > 1
    ]


def measure_importances(study: optuna.Study, *, names: Sequence[str]) -> dict[str, float]:
    """Return the importance of hyperparameters, of sum 1, by PED-ANOVA (Watanabe et al. 2023); the largest first."""
    if len(study.get_trials(states=(TrialState.COMPLETE,))) < FEWEST_TRIALS or len(names) < 2:
        return {}
    evaluator = PedAnovaImportanceEvaluator(target_quantile=TOP_SHARE)
    return dict(get_param_importances(study, evaluator=evaluator, params=list(names)))
