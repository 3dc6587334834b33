"""Engines use as many threads as the process has cores, within the CPU quota of its control groups."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

import edge_interleave as ei
from edge_interleave.bundle.manifest import open_bundle
from edge_interleave.bundle.store import embedded_folder
from edge_interleave.cli.demo import tour_folder
from edge_interleave.util import cpus
from edge_interleave.vision.tower import VisionTower


class Machine:
    """The files in which the system describes a process's control groups."""

    def __init__(self, folder: Path) -> None:
        self.process = folder / "proc"
        self.mount = folder / "sys fs cgroup"
        self.process.mkdir()
        self._mounts: list[str] = []

    def groups(self, *lines: str) -> None:
        (self.process / "cgroup").write_text("".join(f"{line}\n" for line in lines))

    def mounted(self, kind: str, options: str, root: str = "/", place: str = "") -> Path:
        folder = self.mount / place
        folder.mkdir(parents=True, exist_ok=True)
        shown = str(folder).replace(" ", r"\040")
        self._mounts.append(f"31 23 0:28 {root} {shown} rw,relatime shared:9 - {kind} {kind} {options}\n")
        (self.process / "mountinfo").write_text("1 0 8:1 / / rw - ext4 /dev/sda rw\nrubbish\n" + "".join(self._mounts))
        return folder

    @property
    def quota(self) -> float | None:
        return cpus.cpu_quota(self.process, self.mount)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def limit_v2(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(text)


def limit_v1(folder: Path, quota: int, period: int = 100_000) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


class TestVersion2:
    @pytest.mark.parametrize(
        ("text", "quota"),
        [
            ("100000 100000\n", 1.0),
            ("250000 100000", 2.5),
            ("20000 100000", 0.2),
            ("max 100000\n", None),
            ("max", None),
            ("", None),
            ("rubbish here", None),
            ("100 0", None),
            ("-1 100000", None),
        ],
    )
    def test_has_the_quota_in_one_file(self, machine: Machine, text: str, quota: float | None) -> None:
        machine.groups("0::/")
        limit_v2(machine.mounted("cgroup2", "rw"), text)
        assert machine.quota == quota

    def test_the_tightest_of_nested_groups_counts(self, machine: Machine) -> None:
        machine.groups("0::/a/b/c")
        mount = machine.mounted("cgroup2", "rw")
        limit_v2(mount / "a/b/c", "max 100000")
        assert machine.quota is None
        limit_v2(mount / "a/b", "300000 100000")
        limit_v2(mount / "a", "200000 100000")
        assert machine.quota == 2
        limit_v2(mount / "a/b/c", "50000 100000")
        assert machine.quota == 0.5
        limit_v2(mount / "a/other", "10000 100000")
        assert machine.quota == 0.5

    def test_a_container_sees_its_group_as_the_root(self, machine: Machine) -> None:
        # The parents are named but not visible, as in a namespace or with a partly mounted hierarchy.
        for path, root in (
            ("/", "/"),
            ("/../../outside", "/"),
            ("/docker/1f", "/docker/1f"),
            ("/docker/1f", "/docker/2e"),
        ):
            machine.groups(f"0::{path}")
            limit_v2(machine.mounted("cgroup2", "rw", root), "100000 100000")
            assert machine.quota == 1

    def test_is_found_without_an_entry_in_the_list_of_mounts(self, machine: Machine) -> None:
        machine.groups("0::/a")
        limit_v2(machine.mount / "a", "100000 100000")
        assert machine.quota == 1
        (machine.process / "cgroup").unlink()
        assert machine.quota is None
        limit_v2(machine.mount, "300000 100000")
        assert machine.quota == 3


class TestVersion1:
    def test_has_quota_and_period_in_two_files(self, machine: Machine) -> None:
        machine.groups("4:memory:/x", "2:cpu,cpuacct:/a/b", "0::/")
        mount = machine.mounted("cgroup", "rw,cpu,cpuacct", place="cpu,cpuacct")
        limit_v1(mount / "a/b", -1)
        assert machine.quota is None
        limit_v1(mount / "a/b", 150_000)
        assert machine.quota == 1.5
        limit_v1(mount / "a", 50_000, 50_000)
        assert machine.quota == 1

    def test_other_controllers_are_ignored(self, machine: Machine) -> None:
        machine.groups("3:cpuset:/", "2:cpuacct:/")
        limit_v1(machine.mounted("cgroup", "rw,cpuacct", place="cpuacct"), 100_000)
        limit_v1(machine.mounted("cgroup", "rw,cpuset", place="cpuset"), 100_000)
        assert machine.quota is None

    def test_a_container_s_group_lies_at_the_mount(self, machine: Machine) -> None:
        machine.groups("2:cpu:/docker/1f/inner")
        mount = machine.mounted("cgroup", "rw,cpu", "/docker/1f", "cpu")
        limit_v1(mount, 200_000)
        limit_v1(mount / "inner", 100_000)
        assert machine.quota == 1

    def test_counts_beside_version_2(self, machine: Machine) -> None:
        machine.groups("1:cpu:/", "0::/")
        limit_v1(machine.mounted("cgroup", "rw,cpu", place="cpu"), 300_000)
        limit_v2(machine.mounted("cgroup2", "rw", place="unified"), "200000 100000")
        assert machine.quota == 2


def test_a_machine_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert cpus.cpu_quota(tmp_path / "none", tmp_path / "neither") is None


class TestCores:
    @pytest.mark.parametrize(("quota", "cores"), [(None, 8), (0.3, 1), (1.0, 1), (2.9, 2), (8.0, 8), (64.0, 8)])
    def test_are_within_the_quota_and_at_least_one(
        self, monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int
    ) -> None:
        monkeypatch.setattr(cpus, "_cores", lambda: 8)
        monkeypatch.setattr(cpus, "cpu_quota", lambda: quota)
        assert cpus.usable_cores() == cores
        assert cpus.quota_limit() == (cores if cores < 8 else None)

    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity")
    def test_are_those_that_the_process_may_run_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cpus, "cpu_quota", lambda: None)
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(allowed)})
        try:
            assert cpus.usable_cores() == 1
        finally:
            os.sched_setaffinity(0, allowed)


class TestEngines:
    @pytest.fixture(autouse=True)
    def three_of_eight(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Eight cores, and a quota of three."""
        monkeypatch.setattr(cpus, "_cores", lambda: 8)
        monkeypatch.setattr(cpus, "cpu_quota", lambda: 3.0)

    def test_take_as_many_threads_as_the_quota_allows(self) -> None:
        import llama_cpp.llama_cpp as low

        with ei.load(backend="llama-cpp") as model:
            decoder = model._spare
            assert low.llama_n_threads(decoder._context) == 3  # type: ignore[union-attr]
        bundle = open_bundle(embedded_folder())
        tower = VisionTower(bundle.file("vision.onnx"), bundle.manifest.vision)
        assert tower._session.get_session_options().intra_op_num_threads == 3
        assert np.isfinite(tower.encode(np.zeros((1, 3, *[bundle.manifest.vision.image_size] * 2), np.float32))).all()

    def test_take_what_is_asked_for_all_the_same(self) -> None:
        bundle = open_bundle(embedded_folder())
        tower = VisionTower(bundle.file("vision.onnx"), bundle.manifest.vision, 2)
        assert tower._session.get_session_options().intra_op_num_threads == 2

    def test_that_read_videos_keep_to_it(self) -> None:
        from edge_interleave.media.opencv import opencv
        from edge_interleave.media.video.file import VideoFile

        opencv.cache_clear()
        cv2 = opencv()
        try:
            assert cv2.getNumThreads() == 3
        finally:
            cv2.setNumThreads(-1)
            opencv.cache_clear()
        with VideoFile(tour_folder() / "clip.mp4") as video:
            assert video._track.codec_context.thread_count == 3
            assert video.read() is not None


@pytest.mark.skipif(sys.platform != "linux", reason="has control groups")
def test_this_process_s_quota_is_read_without_an_error() -> None:
    assert 1 <= cpus.usable_cores() <= (os.cpu_count() or 1)
