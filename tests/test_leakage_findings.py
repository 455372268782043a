import pytest

from pipeline.leakage.findings import Finding, LeakageError, raise_if_critical

BAR = 60_000


def test_all_critical_guards_are_named_in_one_error():
    severities = {"a": "ok", "b": "critical", "c": "warning", "d": "critical"}
    found = [Finding(guard, severity, f"{guard} is off", {}) for guard, severity in severities.items()]
    with pytest.raises(LeakageError, match=r"^b: b is off\nd: d is off$"):
        raise_if_critical(found)


def test_warnings_raise_nothing():
    raise_if_critical([Finding("a", "ok", "", {}), Finding("b", "warning", "", {})])
