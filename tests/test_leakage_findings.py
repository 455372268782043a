import numpy as np
import pytest

from pipeline.leakage import findings
from pipeline.leakage.findings import Finding, LeakageError, check_finite, raise_if_critical

BAR = 60_000


def test_all_critical_findings_are_listed_in_one_error():
    severities = {"a": "ok", "b": "critical", "c": "warning", "d": "critical"}
    found = [Finding(guard, severity, f"{guard} failed", {}) for guard, severity in severities.items()]
    with pytest.raises(LeakageError, match=r"^b: b failed\nd: d failed$"):
        raise_if_critical(found)


def test_warnings_raise_nothing():
    raise_if_critical([Finding("a", "ok", "", {}), Finding("b", "warning", "", {})])


def test_the_first_value_that_is_not_finite_is_named_whatever_its_row():
    values = np.zeros((2 * findings.CHUNK_ROWS + 5, 2))
    check_finite(values, ["a", "b"])
    values[findings.CHUNK_ROWS + 3, 1], values[-1, 0] = np.inf, np.nan
    with pytest.raises(ValueError, match=f"b: not finite in row {findings.CHUNK_ROWS + 3}, one of 2 such values"):
        check_finite(values, ["a", "b"])
