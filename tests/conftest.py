import pipeline  # noqa: F401  # pins the arithmetic of NumPy, torch and others: before any test imports them
