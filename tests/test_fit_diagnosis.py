"""Diagnoses of fits whose histories show known symptoms."""

import json
import math
from typing import Any

import pytest

from pipeline.evaluation.fit_diagnosis import RECOMMENDATIONS, VERDICTS, diagnose_fit


def make_history(train: list[float], valid: list[float], **more: list[float]) -> list[dict[str, float]]:
    columns = {"iteration": list(range(1, len(train) + 1)), "train_loss": train, "valid_loss": valid, **more}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def diagnose(history: list[dict[str, float]], *, reached_last_epoch: bool) -> dict[str, Any]:
    """Diagnose a fit that kept the weights of its lowest valid loss."""
    losses = [entry.get("valid_loss", math.inf) for entry in history]
    best_epoch = 1 + losses.index(min(losses)) if losses else None
    return diagnose_fit(history, best_epoch=best_epoch, reached_last_epoch=reached_last_epoch)


FALLING = [1.0, 0.9, 0.85, 0.83, 0.82, 0.8199]


@pytest.mark.parametrize(
    ("train", "valid", "reached_last_epoch", "verdict", "symptoms"),
    [
        (FALLING, [1.0, 0.95, 0.91, 0.9, 0.91, 0.905], False, "healthy", []),
        (FALLING, [1.0, 0.95, 0.91, 0.9, 0.91, 0.905], True, "healthy", []),  # the train loss has stopped falling
        (
            [1.0, 0.5, 0.25, 0.125, 0.1249],
            [1.0, 0.5, 0.25, 0.125, 0.1249],
            True,
            "healthy",
            [],
        ),  # a steep fall is no jump
        ([1.0, 0.995, 0.992], [1.0, 1.0, 1.0], False, "not learning", ["train loss did not fall"]),
        ([1.0, 0.8, 1.2], [1.0, 0.9, 1.3], False, "diverged", ["train loss rose", "valid loss jumps"]),
        ([1.0, math.nan], [1.0, 1.0], False, "diverged", ["loss not finite"]),
        ([1.0, 0.9], [1.0, math.inf], False, "diverged", ["loss not finite"]),
        (FALLING, [0.9, 1.0, 0.9, 1.0, 0.9, 1.0], False, "unstable", None),
        (
            FALLING,
            [0.90, 0.90, 0.905, 0.91, 0.915, 0.92],
            False,
            "overfitting",
            ["valid loss rose while train loss fell"],
        ),
        (FALLING, [0.95, 0.92, 0.9, 0.91, 0.92, 0.93], False, "healthy", []),  # no more than patience allows
        (FALLING, [0.95, 0.92, 0.9, 0.92, 0.95, 1.0], False, "overfitting", ["valid loss rose while train loss fell"]),
        (FALLING[:5], [1.0, 0.95, 0.92, 0.91, 0.9], True, "underfitting", ["stopped too soon"]),
        (FALLING[:5], [1.0, 0.95, 0.92, 0.91, 0.9], False, "healthy", []),
        (FALLING[:5], [1.0, 0.9, 0.903, 0.903, 0.903], True, "healthy", []),  # more epochs would not lower valid
        ([1.0], [1.0], True, "undetermined", []),
        ([], [], False, "undetermined", []),
    ],
)
def test_a_fit_is_diagnosed_by_its_losses(
    train: list[float], valid: list[float], reached_last_epoch: bool, verdict: str, symptoms: list[str] | None
):
    found = diagnose(make_history(train, valid), reached_last_epoch=reached_last_epoch)
    assert found["verdict"] == verdict
    assert symptoms is None or [each["symptom"] for each in found["symptoms"]] == symptoms
    assert bool(found["recommendations"]) == (verdict != "healthy")
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("mean", "highest", "verdict", "symptom"),
    [
        (1.0, 2.0, "healthy", None),
        (1.0, 2e3, "unstable", {"symptom": "exploding gradients", "first_epoch": 3, "epochs": 1, "norm_max": 2e3}),
        (
            1e-8,
            1.0,
            "not learning",
            {"symptom": "vanishing gradients", "first_epoch": 3, "epochs": 1, "norm_min": 1e-8},
        ),
        (math.nan, math.nan, "diverged", {"symptom": "gradients not finite", "first_epoch": 3, "epochs": 1}),
    ],
)
def test_gradient_norms_of_the_history_are_symptoms(
    mean: float, highest: float, verdict: str, symptom: dict[str, Any] | None
):
    norms = {"grad_norm": [1.0, 1.0, mean], "grad_norm_max": [1.0, 1.0, highest]}
    found = diagnose(make_history([1.0, 0.9, 0.8], [1.0, 0.9, 0.85], **norms), reached_last_epoch=False)
    assert found["verdict"] == verdict
    assert found["symptoms"] == ([symptom] if symptom else [])


def test_symptoms_have_their_figures_and_recommendations():
    found = diagnose(make_history([1.0, 0.5, 0.25], [1.0, 0.8, 1.0]), reached_last_epoch=False)
    jump, rose = found["symptoms"]
    assert jump == {
        "symptom": "valid loss jumps",
        "jump": pytest.approx(0.2 / (2.8 / 3)),
        "level": pytest.approx(2.8 / 3),
    }
    assert rose == {
        "symptom": "valid loss rose while train loss fell",
        "best_epoch": 2,
        "best_valid_loss": 0.8,
        "last_valid_loss": 1.0,
        "rise": pytest.approx(0.25),
        "train_fall": 0.5,
    }
    recommended = [*RECOMMENDATIONS["valid loss jumps"], *RECOMMENDATIONS["valid loss rose while train loss fell"]]
    assert found["recommendations"] == sorted(set(recommended), key=recommended.index)
    assert found["verdict"] == "unstable" == VERDICTS[2]


def test_the_worst_symptom_comes_first_and_gives_the_verdict():
    norms = {"grad_norm": [1.0, 5e3], "grad_norm_max": [1.0, 5e3]}
    found = diagnose(make_history([1.0, math.nan], [1.0, 1.0], **norms), reached_last_epoch=False)
    assert [each["symptom"] for each in found["symptoms"]] == ["loss not finite", "exploding gradients"]
    assert found["verdict"] == "diverged"


def test_a_loss_of_exactly_zero_has_a_finite_rise():
    json.dumps(diagnose(make_history([0.0, 5.0, 4.0], [0.0, 5.0, 4.0]), reached_last_epoch=True), allow_nan=False)


def test_a_missing_loss_counts_as_nan():
    history = make_history([1.0, 0.9, 0.8], [1.0, 0.9, 0.8])
    del history[1]["valid_loss"]
    found = diagnose(history, reached_last_epoch=False)
    assert found["symptoms"] == [{"symptom": "loss not finite", "first_epoch": 2, "epochs": 1}]


def test_the_best_epoch_is_the_one_whose_weights_were_kept():
    history = make_history([1.0, 0.9, 0.8, 0.7], [0.6, 0.9, 0.91, 0.92])
    found = diagnose_fit(history, best_epoch=3, reached_last_epoch=False)
    assert (found["verdict"], found["symptoms"]) == ("healthy", [])
    assert diagnose_fit(history, best_epoch=None, reached_last_epoch=False) == found
    (symptom,) = diagnose_fit(history, best_epoch=1, reached_last_epoch=False)["symptoms"]
    assert (symptom["best_epoch"], symptom["best_valid_loss"]) == (1, 0.6)
