import numpy as np
import pytest

from pipeline.leakage import findings
from pipeline.leakage.findings import Finding, LeakageError, check_finite, raise_if_critical

BAR = 60_000


def test_all_critical_guards_are_named_in_one_error():
    severities = {"a": "ok", "b": "critical", "c": "warning", "d": "critical"}
    found = [Finding(guard, severity, f"{guard} is off", {}) for guard, severity in severities.items()]
    with pytest.raises(LeakageError, match=r"^b: b is off\nd: d is off$"):
        raise_if_critical(found)


def test_warnings_raise_nothing():
    raise_if_critical([Finding("a", "ok", "", {}), Finding("b", "warning", "", {})])


def test_the_first_of_all_values_that_are_not_finite_is_named_wherever_it_stands():
    values = np.zeros((2 * findings.ROWS_AT_ONCE + 5, 2))
    check_finite(values, ["a", "b"])
    values[findings.ROWS_AT_ONCE + 3, 1], values[-1, 0] = np.inf, np.nan
    with pytest.raises(ValueError, match=f"b: not finite in row {findings.ROWS_AT_ONCE + 3}, one of 2 such values"):
        check_finite(values, ["a", "b"])
