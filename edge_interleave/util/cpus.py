"""Counts the cores that this process may use, within its CPU quota, and detects int8 dot products.

The quota of a container or a service is in its control groups (cgroups, version 1 or 2). An engine with more threads
than its quota allows is suspended repeatedly, and its other threads wait for the suspended ones.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

_FLAGS = re.compile(r"(flags|Features)\s*:")
_DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "asimddp", "i8mm"}
_SYSTEM_MOUNT = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """The number of cores that this process may use, at least 1; the hyperthreads of a core count as one."""
    cores = _cores()
    return cores if (limit := _limit()) is None else min(cores, limit)


def quota_limit() -> int | None:
    """`usable_cores` if the CPU quota is lower than the number of cores, otherwise None."""
    limit = _limit()
    return limit if limit is not None and limit < _cores() else None


def cpu_quota(process: Path = Path("/proc/self"), mount: Path = _SYSTEM_MOUNT) -> float | None:
    """The CPU quota in CPUs, such as 1.5; None without a limit.

    It is the minimum over the process's control groups and their parents. `process`: the process's folder in /proc.
    `mount`: the control groups' mount point if the process's list of mounts has none.
    """
    quotas = [
        quota
        for group in _groups(process, mount)
        for folder in _up_to_the_mount(group)
        for quota in [_quota_v2(folder) if group.unified else _quota_v1(folder)]
        if quota is not None
    ]
    return min(quotas, default=None)


@cache
def has_int8_dot_products() -> bool:
    """Whether the CPU has instructions for sums of int8 products: VNNI on x86, dotprod or i8mm on Arm.

    Read from /proc/cpuinfo on Linux. On other systems, Arm CPUs are assumed to have them, and ONNX Runtime tests x86.
    """
    flags = {word for line in _lines(Path("/proc/cpuinfo")) if _FLAGS.match(line) for word in line.split()}
    if flags:
        return bool(flags & _DOT_PRODUCTS)
    if platform.machine().lower() in ("arm64", "aarch64"):
        return True
    from edge_interleave.util.onnx_runtime import int8_products_saturate

    return not int8_products_saturate()


@dataclass(frozen=True)
class _Group:
    """A control group of the process."""

    unified: bool
    """Whether it is of version 2."""
    mount: Path
    path: PurePosixPath
    """Relative to the mount."""


def _limit() -> int | None:
    quota = cpu_quota()
    return None if quota is None else max(1, int(quota))


def _cores() -> int:
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    cores = set()
    for cpu in allowed:
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            return len(allowed)
    return len(cores)


def _groups(process: Path, mount: Path) -> Iterator[_Group]:
    """The process's control groups that can have a quota. Source: proc(5), /proc/PID/cgroup and /proc/PID/mountinfo."""
    paths: dict[str, str] = {}
    for line in _lines(process / "cgroup"):
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers == "" or "cpu" in controllers.split(","):
            paths["cpu" if controllers else ""] = path
    yield _Group(True, mount, _below(paths.get("", "/"), "/"))
    for line in _lines(process / "mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        controller = "" if kind[0] == "cgroup2" else "cpu"
        if controller and controller not in kind[2].split(","):
            continue
        root, place = map(_unescaped, fields[3:5])
        yield _Group(controller == "", Path(place), _below(paths.get(controller, "/"), root))


def _below(path: str, root: str) -> PurePosixPath:
    """A group's path relative to a mount that shows the hierarchy below `root`; empty if the group is not below it."""
    pure = PurePosixPath(path)
    inside = ".." not in pure.parts and pure.is_relative_to(root)
    return pure.relative_to(root) if inside else PurePosixPath()


def _up_to_the_mount(group: _Group) -> Iterator[Path]:
    yield group.mount / group.path
    for above in group.path.parents:
        yield group.mount / above


def _quota_v2(folder: Path) -> float | None:
    """The quota in `cpu.max`: quota and period in microseconds, or `max`."""
    parts = " ".join(_lines(folder / "cpu.max")).split()
    return _share(*parts) if len(parts) == 2 else None


def _quota_v1(folder: Path) -> float | None:
    """The quota by `cpu.cfs_quota_us`, -1 for no limit, and `cpu.cfs_period_us`."""
    quota, period = ("".join(_lines(folder / f"cpu.cfs_{name}_us")).strip() for name in ("quota", "period"))
    return _share(quota, period)


def _share(quota: str, period: str) -> float | None:
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return share if share > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
