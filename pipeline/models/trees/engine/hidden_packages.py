"""Imports without an optional package that a library loads by itself."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hide_scikit_learn() -> Iterator[None]:
    """Let libraries that are imported in the block find no scikit-learn, unless it is loaded already.

    LightGBM and XGBoost load it for wrapper classes that no plugin uses, which takes two thirds of their import time.
    These wrappers then raise an error when they are used.
    """
    if "sklearn" in sys.modules:
        yield
        return
    sys.modules["sklearn"] = None  # type: ignore[assignment]  # an import of it then raises ModuleNotFoundError
    try:
        yield
    finally:
        del sys.modules["sklearn"]
