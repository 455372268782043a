"""Measurements of a fitted model that only its family can make, such as the entropy of a net's attention.

A family has its own in `pipeline/models/<family>/_diagnostics.py`, as the function `diagnose`; one without has none.
"""

import importlib
import importlib.util

import numpy as np

from pipeline.models.base import Model

Diagnosis = dict[str, float | str | None]  # measurements by name; `reason` says why some are None


def diagnose_model(model: Model, inputs: np.ndarray, *, family: str) -> Diagnosis:
    """Return the measurements of a fitted model on its inputs (B, …), JSON-able; empty where its family has none."""
    name = f"pipeline.models.{family}._diagnostics"
    if not importlib.util.find_spec(name):
        return {}
    found: Diagnosis = importlib.import_module(name).diagnose(model, inputs)
    return found
