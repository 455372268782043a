"""What the losses and gradients of a fit say of it: a verdict, the signs behind it, and what to try."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.models.nets.engine.callback import Notes

VANISHING_NORM = 1e-7  # a gradient below moves nothing
EXPLODING_NORM = 1e3  # a gradient above throws the weights about

# Shares of a loss, by which a fit is judged.
LEARNT_FALL = 0.01  # train falls by more, or nothing is learnt
DIVERGED_RISE = 0.05  # train ends higher by more: steps lead away
EARLY_BEST_EPOCHS = 2  # a best epoch among these is early
EARLY_BEST_RISE = 0.01  # valid ends higher than an early best by more: train is learnt by heart
LATE_BEST_RISE = 0.10  # the same after any other best, which patience lets a sound fit run past
STILL_FALLING = 0.001  # train falls by more in the last epoch: there is more to learn
STILL_BEST_EPOCHS = 2  # valid has its best among as many last epochs: more epochs would serve it
UNSTABLE_JUMP = 0.05  # valid turns back by more: steps are too long
LEAST_LEVEL = 1e-30  # a loss of exactly zero has shares of this

VERDICTS = ("diverged", "not learning", "unstable", "overfitting", "underfitting")  # the gravest first; else healthy
ADVICE = {
    "loss not finite": ("lower learning_rate", "clip gradients", "look for extreme inputs"),
    "gradients not finite": ("lower learning_rate", "clip gradients", "look for extreme inputs"),
    "train loss rose": ("lower learning_rate", "clip gradients"),
    "train loss did not fall": ("raise learning_rate", "use more units", "ask whether the inputs tell of the target"),
    "vanishing gradients": ("use fewer layers, or residual connections and normalisation", "raise learning_rate"),
    "exploding gradients": ("clip gradients", "lower learning_rate"),
    "valid loss jumps": ("lower learning_rate", "clip gradients", "use larger batches"),
    "valid loss rose while train fell": (
        "lower learning_rate",
        "raise dropout",
        "raise weight_decay",
        "use fewer units",
    ),
    "stopped too soon": ("train for more epochs", "raise learning_rate"),
}  # by sign


class Sign(NamedTuple):
    """Something that a fit shows, with the numbers behind it."""

    verdict: str  # one of VERDICTS
    sign: str  # one of ADVICE
    figures: dict[str, float]


def diagnosis(entries: Sequence[Mapping[str, float]], *, ran_out: bool) -> Notes:
    """What the losses and gradient norms of a fit, an entry an epoch, say of it; `ran_out`: it ended at its last epoch.

    {"verdict": the gravest of VERDICTS that has a sign, else "healthy"; "undetermined" with fewer than two epochs,
     "signs": [{"sign": ..., and the numbers behind it}], "recommendations": [...]}
    """
    if len(entries) < 2:
        return {"verdict": "undetermined", "signs": [], "recommendations": ["train for 2 epochs or more"]}
    rounds, train, valid = (np.array([entry[key] for entry in entries]) for key in ("round", "train", "valid"))
    is_finite = np.isfinite(train) & np.isfinite(valid)  # each (epochs,)
    signs = list(_signs_of_gradients(entries))
    if is_finite.all():
        signs += [*_signs_of_train(train), *_signs_of_valid(train, valid, ran_out=ran_out)]
    else:
        signs.append(Sign("diverged", "loss not finite", _when(rounds[~is_finite])))
    signs.sort(key=lambda sign: VERDICTS.index(sign.verdict))
    return {
        "verdict": signs[0].verdict if signs else "healthy",
        "signs": [{"sign": sign.sign, **sign.figures} for sign in signs],
        "recommendations": list(dict.fromkeys(advice for sign in signs for advice in ADVICE[sign.sign])),
    }


def _signs_of_train(train: np.ndarray) -> Iterator[Sign]:
    """(epochs,) finite losses."""
    first, lowest, last = (float(loss) for loss in (train[0], train.min(), train[-1]))
    if _rise(first, last) > DIVERGED_RISE:
        yield Sign("diverged", "train loss rose", {"first": first, "last": last, "rise": _rise(first, last)})
    if -_rise(first, lowest) <= LEARNT_FALL:
        figures = {"first": first, "lowest": lowest, "fall": -_rise(first, lowest)}
        yield Sign("not learning", "train loss did not fall", figures)


def _signs_of_valid(train: np.ndarray, valid: np.ndarray, *, ran_out: bool) -> Iterator[Sign]:
    """Two times (epochs,) finite losses."""
    best = int(valid.argmin())
    rise = _rise(float(valid[best]), float(valid[-1]))
    fall_since = -_rise(float(train[best]), float(train[-1]))
    fall_last = -_rise(float(train[-2]), float(train[-1]))
    jump = _jump(valid)
    if jump > UNSTABLE_JUMP:
        yield Sign("unstable", "valid loss jumps", {"jump": jump, "level": float(np.abs(valid).mean())})
    if fall_since > 0 and rise > (EARLY_BEST_RISE if best < EARLY_BEST_EPOCHS else LATE_BEST_RISE):
        figures = {"best_epoch": best + 1, "best_valid": float(valid[best]), "last_valid": float(valid[-1])}
        figures |= {"rise": rise, "train_fall": fall_since}
        yield Sign("overfitting", "valid loss rose while train fell", figures)
    is_at_best = len(valid) - best <= STILL_BEST_EPOCHS and rise <= EARLY_BEST_RISE
    if ran_out and is_at_best and fall_last > STILL_FALLING:
        figures = {"epochs": len(train), "best_epoch": best + 1, "last_train": float(train[-1]), "last_fall": fall_last}
        yield Sign("underfitting", "stopped too soon", figures)


def _signs_of_gradients(entries: Sequence[Mapping[str, float]]) -> Iterator[Sign]:
    """Of the entries that have norms."""
    known = [entry for entry in entries if "gradient_norm" in entry]
    rounds, mean, highest = (
        np.array([e[key] for e in known]) for key in ("round", "gradient_norm", "gradient_norm_max")
    )
    is_finite = np.isfinite(mean) & np.isfinite(highest)
    exploding, vanishing = is_finite & (highest > EXPLODING_NORM), is_finite & (mean < VANISHING_NORM)
    if not is_finite.all():
        yield Sign("diverged", "gradients not finite", _when(rounds[~is_finite]))
    if exploding.any():
        figures = _when(rounds[exploding]) | {"norm_max": float(highest[exploding].max())}
        yield Sign("unstable", "exploding gradients", figures)
    if vanishing.any():
        figures = _when(rounds[vanishing]) | {"norm_min": float(mean[vanishing].min())}
        yield Sign("not learning", "vanishing gradients", figures)


def _when(rounds: np.ndarray) -> dict[str, float]:
    return {"first_epoch": int(rounds[0]), "epochs": len(rounds)}


def _rise(before: float, after: float) -> float:
    """As a share of the level before, negative for a fall."""
    return (after - before) / max(abs(before), LEAST_LEVEL)


def _jump(losses: np.ndarray) -> float:
    """How far (epochs,) losses turn back, as a share of their level: the root of the mean square over inner epochs.

    An epoch where a rise meets a fall turns back by the smaller of the two. The deviation of all differences would call
    a steep, steady fall a jump.
    """
    steps = np.diff(losses)
    turns = np.where(steps[:-1] * steps[1:] < 0, np.minimum(np.abs(steps[:-1]), np.abs(steps[1:])), 0.0)
    return float(np.sqrt(np.mean(turns**2)) / np.abs(losses).mean()) if turns.any() else 0.0
