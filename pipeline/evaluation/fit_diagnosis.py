"""Diagnosis of a fit by its history: a verdict, the symptoms behind it, and what to try.

A history has one entry for each iteration, with "iteration", "train_loss" and "valid_loss". Entries of nets may also
have "grad_norm" and "grad_norm_max", of the norm over all parameters before clipping. A missing loss counts as NaN:
that is how a history is read back from its CSV.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

VANISHING_NORM = 1e-7  # an epoch's mean gradient norm below this hardly changes the weights
EXPLODING_NORM = 1e3  # an epoch's largest gradient norm above this makes steps that destroy what was learned

# Thresholds on losses, as shares of a loss.
LEARNED_FALL = 0.01  # the train loss must fall by more, or nothing is learned
DIVERGED_RISE = 0.05  # the train loss ends higher by more: the fit diverges
EARLY_BEST_EPOCHS = 2  # a best epoch is early if it is among these
EARLY_BEST_RISE = 0.01  # the valid loss ends higher than an early best by more: overfitting
LATER_BEST_RISE = 0.10  # the same after a later best, which patience lets a sound fit run past
STILL_FALLING = 0.001  # the train loss falls by more in the last epoch: there is more to learn
STILL_BEST_EPOCHS = 2  # the best valid loss is among as many last epochs: more epochs would lower it
UNSTABLE_JUMP = 0.05  # the valid loss turns back by more: steps are too long
MIN_LEVEL = 1e-30  # the level that replaces a loss of exactly zero

VERDICTS = ("diverged", "not learning", "unstable", "overfitting", "underfitting")  # the worst first
RECOMMENDATIONS = {  # by symptom
    "loss not finite": ("lower learning_rate", "lower max_grad_norm", "look for extreme inputs"),
    "gradients not finite": ("lower learning_rate", "lower max_grad_norm", "look for extreme inputs"),
    "train loss rose": ("lower learning_rate", "lower max_grad_norm"),
    "train loss did not fall": (
        "raise learning_rate",
        "use more units",
        "check whether the inputs predict the target at all",
    ),
    "vanishing gradients": ("use fewer layers, or residual connections and normalization", "raise learning_rate"),
    "exploding gradients": ("lower max_grad_norm", "lower learning_rate"),
    "valid loss jumps": ("lower learning_rate", "lower max_grad_norm", "use larger batches"),
    "valid loss rose while train loss fell": (
        "lower learning_rate",
        "raise dropout",
        "raise weight_decay",
        "use fewer units",
    ),
    "stopped too soon": ("train for more epochs", "raise learning_rate"),
}


class Symptom(NamedTuple):
    """A symptom of a fit, with its measurements."""

    verdict: str  # one of VERDICTS
    name: str  # one of RECOMMENDATIONS
    measurements: dict[str, float]


def diagnose_fit(
    history: Sequence[Mapping[str, float]], *, best_epoch: int | None, reached_last_epoch: bool
) -> dict[str, Any]:
    """Return the diagnosis of a fit, JSON-able.

    "verdict" is the worst of VERDICTS that has a symptom, "healthy" where there is none, and "undetermined" with fewer
    than two epochs. "symptoms" are [{"symptom": name, **measurements}], the worst first. "recommendations" say what to
    try.

    Args:
        history: one entry for each epoch, see the module.
        best_epoch: the epoch whose weights were kept, from 1 on; None where the last weights were.
        reached_last_epoch: whether the fit ended because it had used all its epochs, not by early stopping.
    """
    if len(history) < 2:
        return {"verdict": "undetermined", "symptoms": [], "recommendations": ["train for 2 epochs or more"]}
    symptoms = sorted(
        _find_symptoms(history, best=(best_epoch or len(history)) - 1, reached_last_epoch=reached_last_epoch),
        key=lambda symptom: VERDICTS.index(symptom.verdict),
    )
    return {
        "verdict": symptoms[0].verdict if symptoms else "healthy",
        "symptoms": [{"symptom": symptom.name, **symptom.measurements} for symptom in symptoms],
        "recommendations": list(dict.fromkeys(each for symptom in symptoms for each in RECOMMENDATIONS[symptom.name])),
    }


def _find_symptoms(history: Sequence[Mapping[str, float]], *, best: int, reached_last_epoch: bool) -> Iterator[Symptom]:
    epochs, train, valid = (
        np.array([entry.get(key, np.nan) for entry in history]) for key in ("iteration", "train_loss", "valid_loss")
    )
    is_finite = np.isfinite(train) & np.isfinite(valid)  # each (epochs,)
    yield from _check_gradients(history)
    if is_finite.all():
        yield from _check_train_loss(train)
        yield from _check_valid_loss(train, valid, best=best, reached_last_epoch=reached_last_epoch)
    else:
        yield Symptom("diverged", "loss not finite", _locate_epochs(epochs[~is_finite]))


def _check_train_loss(train: np.ndarray) -> Iterator[Symptom]:
    """Yield the symptoms of (epochs,) finite train losses."""
    first, lowest, last = (float(loss) for loss in (train[0], train.min(), train[-1]))
    if _measure_rise(first, last) > DIVERGED_RISE:
        yield Symptom("diverged", "train loss rose", {"first": first, "last": last, "rise": _measure_rise(first, last)})
    if -_measure_rise(first, lowest) <= LEARNED_FALL:
        measurements = {"first": first, "lowest": lowest, "fall": -_measure_rise(first, lowest)}
        yield Symptom("not learning", "train loss did not fall", measurements)


def _check_valid_loss(
    train: np.ndarray, valid: np.ndarray, *, best: int, reached_last_epoch: bool
) -> Iterator[Symptom]:
    """Yield the symptoms of (epochs,) finite valid losses, next to the train losses; `best` is a position in them."""
    rise = _measure_rise(float(valid[best]), float(valid[-1]))
    fall_since_best = -_measure_rise(float(train[best]), float(train[-1]))
    last_fall = -_measure_rise(float(train[-2]), float(train[-1]))
    jump = _measure_jump(valid)
    if jump > UNSTABLE_JUMP:
        yield Symptom("unstable", "valid loss jumps", {"jump": jump, "level": float(np.abs(valid).mean())})
    if fall_since_best > 0 and rise > (EARLY_BEST_RISE if best < EARLY_BEST_EPOCHS else LATER_BEST_RISE):
        measurements = {
            "best_epoch": best + 1,
            "best_valid_loss": float(valid[best]),
            "last_valid_loss": float(valid[-1]),
        }
        measurements |= {"rise": rise, "train_fall": fall_since_best}
        yield Symptom("overfitting", "valid loss rose while train loss fell", measurements)
    is_at_best = len(valid) - best <= STILL_BEST_EPOCHS and rise <= EARLY_BEST_RISE
    if reached_last_epoch and is_at_best and last_fall > STILL_FALLING:
        measurements = {"epochs": len(train), "best_epoch": best + 1}
        measurements |= {"last_train_loss": float(train[-1]), "last_fall": last_fall}
        yield Symptom("underfitting", "stopped too soon", measurements)


def _check_gradients(history: Sequence[Mapping[str, float]]) -> Iterator[Symptom]:
    """Yield the symptoms of the entries that have gradient norms."""
    measured = [entry for entry in history if "grad_norm" in entry]
    epochs, mean, highest = (
        np.array([entry[key] for entry in measured]) for key in ("iteration", "grad_norm", "grad_norm_max")
    )
    is_finite = np.isfinite(mean) & np.isfinite(highest)
    exploding, vanishing = is_finite & (highest > EXPLODING_NORM), is_finite & (mean < VANISHING_NORM)
    if not is_finite.all():
        yield Symptom("diverged", "gradients not finite", _locate_epochs(epochs[~is_finite]))
    if exploding.any():
        measurements = _locate_epochs(epochs[exploding]) | {"norm_max": float(highest[exploding].max())}
        yield Symptom("unstable", "exploding gradients", measurements)
    if vanishing.any():
        measurements = _locate_epochs(epochs[vanishing]) | {"norm_min": float(mean[vanishing].min())}
        yield Symptom("not learning", "vanishing gradients", measurements)


def _locate_epochs(epochs: np.ndarray) -> dict[str, float]:
    return {"first_epoch": int(epochs[0]), "epochs": len(epochs)}


def _measure_rise(before: float, after: float) -> float:
    """Return the rise as a share of the level before, negative for a fall."""
    return (after - before) / max(abs(before), MIN_LEVEL)


def _measure_jump(losses: np.ndarray) -> float:
    """Return how far (epochs,) losses turn back, the root mean square over epochs, as a share of their level.

    An epoch where a rise meets a fall turns back by the smaller of the two. The standard deviation of all differences
    is no measure of jumps: a steep, steady fall would count as one.
    """
    steps = np.diff(losses)
    turns = np.where(steps[:-1] * steps[1:] < 0, np.minimum(np.abs(steps[:-1]), np.abs(steps[1:])), 0.0)
    return float(np.sqrt(np.mean(turns**2)) / np.abs(losses).mean()) if turns.any() else 0.0
