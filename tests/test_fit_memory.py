"""Fewer fits run at once where the free memory does not hold them: the machine's, or that of a container's limit."""

from pathlib import Path

import pytest

from pipeline.models.fit_memory import limit_workers, read_free_bytes

MIB = 1 << 20


def make_root(root: Path, *, groups: str, files: dict[str, int | str]) -> Path:
    """Return a folder with proc/ of a machine with 5 GiB available, and `files` below sys/fs/cgroup, in MiB or text."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable:    5242880 kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content if isinstance(content, str) else content * MIB}\n")
    return root


def test_fewer_fits_run_at_once_where_the_free_memory_does_not_hold_them(tmp_path, caplog):
    given = {"workers": 4, "desc": "train m", "root": make_root(tmp_path, groups="0::/\n", files={})}
    assert [limit_workers(fit_bytes=gib << 30, **given) for gib in (0, 1, 2, 9)] == [4, 4, 2, 1]
    assert caplog.messages == [
        "train m: 2 fit(s) at a time instead of 4: one needs about 2.0 GiB, and 5.0 GiB are free",
        "train m: 1 fit(s) at a time instead of 4: one needs about 9.0 GiB, and 5.0 GiB are free",
    ]


V1 = "9:name=systemd:/\n4:cpu,memory:/docker/a1\n0::/\n"
UNLIMITED = 9223372036854771712 // MIB


def stat(**mib: int) -> str:
    return "".join(f"{name} {value * MIB}\n" for name, value in mib.items())


@pytest.mark.parametrize(
    ("groups", "files", "free"),
    [
        ("", {}, 5120),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/b/memory.current": 900}, 5120),
        ("0::/a/b\n", {"a/b/memory.max": 1000, "a/b/memory.current": 900}, 100),
        ("0::/a/b\n", {"a/b/memory.max": 1000}, 5120),
        ("0::/a/b\n", {"a/b/memory.max": 9000, "a/b/memory.current": 900}, 5120),
        ("0::/a/b\n", {"a/b/memory.max": 1000, "a/b/memory.current": 1001}, 0),
        (
            "0::/a/b\n",
            {
                "a/b/memory.max": 1000,
                "a/b/memory.current": 900,
                "a/b/memory.stat": stat(anon=500, inactive_file=300, active_file=100, total_inactive_file=350),
            },
            400,
        ),
        (
            "0::/a/b\n",
            {
                "a/b/memory.max": "max",
                "a/b/memory.current": 900,
                "a/memory.max": 2000,
                "a/memory.current": 1200,
                "memory.max": 3000,
                "memory.current": 1300,
            },
            800,
        ),
        ("0::/\n", {"memory.max": 3000, "memory.current": 1300}, 1700),
        ("0::/../elsewhere\n", {"memory.max": 3000, "memory.current": 1300}, 1700),
        (
            V1,
            {
                "memory/docker/a1/memory.limit_in_bytes": 1000,
                "memory/docker/a1/memory.usage_in_bytes": 900,
                "memory/docker/a1/memory.stat": stat(inactive_file=50, total_inactive_file=200),
                "memory/memory.limit_in_bytes": UNLIMITED,
                "memory/memory.usage_in_bytes": 2000,
            },
            300,
        ),
        (V1, {"memory/memory.limit_in_bytes": 1000, "memory/memory.usage_in_bytes": 900}, 100),
    ],
    ids=[
        "no files",
        "no limit",
        "a limit",
        "a limit, and nothing about what is used",
        "a limit above what the machine has",
        "more used than the limit",
        "page cache",
        "limits of parents",
        "a namespace of its own",
        "outside of its namespace",
        "version 1",
        "version 1, the mount is the own group",
    ],
)
def test_the_free_memory_is_the_least_of_the_machines_and_what_the_limits_leave(tmp_path, groups, files, free):
    assert read_free_bytes(make_root(tmp_path, groups=groups, files=files)) == free * MIB


def test_nothing_limits_the_fits_where_the_system_does_not_say_what_is_free(tmp_path):
    assert limit_workers(4, fit_bytes=1 << 40, desc="train m", root=tmp_path) == 4


def test_this_machine_says_what_is_free():
    assert MIB < read_free_bytes() < 1 << 50
