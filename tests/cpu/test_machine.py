"""csrc/cpu: instruction sets, processors and memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pellucid._kernels import machine

SRC = str(Path(machine.__file__).parents[2])
FLAGS = {
    "avx2": {"avx2", "fma", "f16c", "bmi2"},
    "avxvnni": {"avx2", "fma", "f16c", "bmi2", "avx_vnni"},
    "avx512": {"avx2", "fma", "f16c", "bmi2", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
}
FLAGS["avx512bf16"] = FLAGS["avx512"] | {"avx512_bf16"}
FLAGS["amx"] = FLAGS["avx512bf16"] | {"amx_bf16", "amx_tile", "amx_int8"}


def python(code: str, **env: str) -> str:
    """Runs `code` in a new Python process with `machine` imported -> its output."""
    result = subprocess.run(
        [sys.executable, "-c", "from pellucid._kernels import machine\n" + code],
        env={**os.environ, "PYTHONPATH": SRC, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


# ---- instruction sets ------------------------------------------------------------------------------------------------


def cpuinfo(key: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.partition(":")[0].strip() == key:
            return line.partition(":")[2].strip()
    return ""


def test_tiers_agree_with_the_kernel_s_flags() -> None:
    x86 = platform.machine() == "x86_64"
    flags = set(cpuinfo("flags" if x86 else "Features").split())
    runs = {t["name"]: t["runs"] for t in machine.isas()}
    expected = {name: x86 and need <= flags for name, need in FLAGS.items()}
    expected["avxvnni"] |= expected["avx512"]  # by other encodings of the same instructions
    arm = {"neon": {"asimddp"}, "i8mm": {"asimddp", "i8mm"}}
    expected |= {name: platform.machine() == "aarch64" and need <= flags for name, need in arm.items()}
    assert runs == {"scalar": True, **expected}


def test_best_is_the_highest_tier_that_is_built_and_runs() -> None:
    usable = [t["name"] for t in machine.isas() if t["built"] and t["runs"]]
    assert usable[0] == "scalar"
    assert machine.best_isa() == usable[-1]


def test_names_are_found_and_others_are_not() -> None:
    assert [machine.find_isa(t["name"]) for t in machine.isas()] == list(range(len(machine.isas())))
    assert [machine.find_isa(name) for name in ("", "AVX2", "avx", "avx2 ")] == [-1] * 4


def test_cpu_name_is_the_kernel_s() -> None:
    assert machine.cpu_name() == cpuinfo("model name")


# ---- processors ------------------------------------------------------------------------------------------------------


class Root:
    """A folder with proc/ and sys/ of a made-up machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, path: str, text: str) -> None:
        file = self.folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def cpus(self, online: str, siblings: dict[int, str], allowed: str | None = None) -> Root:
        self.write("/sys/devices/system/cpu/online", online + "\n")
        self.write("/proc/self/status", f"Name:\tpython\nCpus_allowed_list:\t{allowed or online}\nMems_allowed:\t1\n")
        for cpu, text in siblings.items():
            self.write(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", text + "\n")
        return self

    def mount(self, *lines: str) -> None:
        self.write("/proc/self/mountinfo", "22 1 0:5 / /proc rw,relatime - proc proc rw\n" + "".join(lines))

    def read(self) -> dict[str, Any]:
        return dict(machine.topology(self.folder))


V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 24 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


@pytest.fixture
def four(root: Root) -> Root:
    """Four cores, one thread each."""
    return root.cpus("0-3", {i: str(i) for i in range(4)})


def test_this_machine() -> None:
    t = machine.topology()
    assert t["logical"] == len(os.sched_getaffinity(0))
    assert 1 <= t["threads"] <= t["physical"] <= t["logical"]
    assert t["why"]


def test_affinity_of_the_calling_thread() -> None:
    code = "import os; os.sched_setaffinity(0, {max(os.sched_getaffinity(0))}); t = machine.topology(); "
    assert python(code + "print(t['logical'], t['physical'], t['threads'])") == "1 1 1"


@pytest.mark.parametrize("name", ["OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"])
def test_openmp_binds_the_thread_that_loads_it(name: str) -> None:
    """To one processor, or core: the process may use as many as before."""
    mine = " ".join(map(str, sorted(os.sched_getaffinity(0))))
    value = {"OMP_PROC_BIND": "true", "OMP_PLACES": "threads", "GOMP_CPU_AFFINITY": mine}[name]
    code = "print(machine.topology())"
    assert python(code, **{name: value}) == python(code)


def test_a_mask_that_openmp_finds() -> None:
    """What the process was given before it loads OpenMP's library, holds."""
    code = f"""
import os, subprocess, sys
os.sched_setaffinity(0, {{max(os.sched_getaffinity(0))}})
code = "from pellucid._kernels import machine; print(machine.topology()['logical'])"
env = {{**os.environ, "OMP_PROC_BIND": "true", "PYTHONPATH": {SRC!r}}}
subprocess.run([sys.executable, "-c", code], env=env, check=True)
"""
    assert python(code) == "1"


def test_cores(four: Root) -> None:
    cores = {"logical": 4, "physical": 4, "quick": 4}
    assert four.read() == {**cores, "quota": 0.0, "processors": 4.0, "threads": 4, "why": "4 physical cores"}


def test_siblings_count_once(root: Root) -> None:
    t = root.cpus("0-7", {i: f"{i % 4},{i % 4 + 4}" for i in range(8)}).read()
    assert (t["logical"], t["physical"], t["threads"], t["why"]) == (8, 4, 4, "4 physical cores")


def test_new_name_of_the_sibling_list(root: Root) -> None:
    root.cpus("0-3", {})
    for i in range(4):
        root.write(f"/sys/devices/system/cpu/cpu{i}/topology/core_cpus_list", f"{i // 2 * 2}-{i // 2 * 2 + 1}\n")
    assert root.read()["physical"] == 2


def test_core_and_package_numbers_where_there_are_no_lists(root: Root) -> None:
    root.cpus("0-7", {})
    for i in range(8):  # two packages of two cores of two threads
        root.write(f"/sys/devices/system/cpu/cpu{i}/topology/core_id", f"{i // 2 % 2}\n")
        root.write(f"/sys/devices/system/cpu/cpu{i}/topology/physical_package_id", f"{i // 4}\n")
    t = root.read()
    assert (t["physical"], t["why"]) == (4, "4 physical cores")


def test_affinity(root: Root) -> None:
    t = root.cpus("0-3", {i: str(i) for i in range(4)}, allowed="1,3").read()
    assert (t["logical"], t["threads"], t["why"]) == (2, 2, "affinity 2 of 4")


def test_processors_that_could_be_plugged_in_do_not_count(root: Root) -> None:
    t = root.cpus("0-1", {i: str(i) for i in range(2)}, allowed="0-127").read()
    assert (t["logical"], t["threads"], t["why"]) == (2, 2, "2 physical cores")


def test_affinity_that_halves_cores(root: Root) -> None:
    """Both threads of core 0 and one of core 1, of four cores."""
    t = root.cpus("0-7", {i: f"{i % 4},{i % 4 + 4}" for i in range(8)}, allowed="0,1,4").read()
    assert (t["logical"], t["physical"], t["threads"]) == (3, 2, 2)
    assert t["why"] == "2 physical cores, affinity 3 of 8"


@pytest.fixture
def hybrid(root: Root) -> Root:
    """Six cores of two threads each, and eight efficiency cores: the kernel of Intel's lists both kinds."""
    siblings = {i: f"{i // 2 * 2}-{i // 2 * 2 + 1}" for i in range(12)} | {i: str(i) for i in range(12, 20)}
    root.cpus("0-19", siblings)
    root.write("/sys/devices/cpu_core/cpus", "0-11\n")
    root.write("/sys/devices/cpu_atom/cpus", "12-19\n")
    return root


def test_efficiency_cores_are_left_out(hybrid: Root) -> None:
    t = hybrid.read()
    assert (t["logical"], t["physical"], t["quick"], t["threads"]) == (20, 14, 6, 6)
    assert t["why"] == "6 performance cores of 14"


@pytest.mark.parametrize(
    ("allowed", "quick", "why"),
    [
        ("12-15", 4, "affinity 4 of 20"),  # no others
        ("0-3,12", 2, "2 performance cores of 3, affinity 5 of 20"),
        ("0,12", 1, "1 performance core of 2, affinity 2 of 20"),
        ("0,2", 2, "affinity 2 of 20"),
    ],
)
def test_affinity_to_cores_of_two_kinds(hybrid: Root, allowed: str, quick: int, why: str) -> None:
    hybrid.write("/proc/self/status", f"Cpus_allowed_list:\t{allowed}\n")
    t = hybrid.read()
    assert (t["quick"], t["threads"], t["why"]) == (quick, quick, why)


def test_a_quota_between_the_kinds_of_cores(hybrid: Root) -> None:
    hybrid.write("/proc/self/cgroup", "0::/a\n")
    hybrid.mount(V2)
    for quota, threads, why in ((800000, 6, "6 performance cores of 14"), (350000, 3, "cgroup quota 3.5")):
        hybrid.write("/sys/fs/cgroup/a/cpu.max", f"{quota} 100000\n")
        t = hybrid.read()
        assert (t["threads"], t["why"]) == (threads, why)


@pytest.mark.parametrize(
    ("capacities", "quick"),
    [
        ([446, 446, 446, 446, 1024, 1024, 1024, 1024], 4),
        ([400, 400, 870, 870, 870, 870, 870, 1024], 6),
        ([1024] * 8, 8),
        ([0] * 8, 8),
        ([1024, 300, 300, 300, 300, 300, 300], 8),  # of one processor it is unknown
    ],
)
def test_capacities(root: Root, capacities: list[int], quick: int) -> None:
    root.cpus("0-7", {i: str(i) for i in range(8)})
    for i, capacity in enumerate(capacities):
        root.write(f"/sys/devices/system/cpu/cpu{i}/cpu_capacity", f"{capacity}\n")
    assert (root.read()["quick"], root.read()["physical"]) == (quick, 8)


def test_more_processors_than_a_word_has_bits(root: Root) -> None:
    t = root.cpus("0-1023", {i: f"{i % 512},{i % 512 + 512}" for i in range(1024)}).read()
    assert (t["logical"], t["physical"]) == (1024, 512)


def test_more_cores_than_a_team_has_threads(root: Root) -> None:
    t = root.cpus("0-2047", {i: str(i) for i in range(2048)}).read()
    assert (t["physical"], t["threads"], t["why"]) == (2048, 1024, "2048 physical cores, at most 1024 threads")
    root.write("/proc/self/cgroup", "0::/a\n")
    root.mount(V2)
    root.write("/sys/fs/cgroup/a/cpu.max", "150000000 100000\n")
    assert (root.read()["threads"], root.read()["why"]) == (1024, "cgroup quota 1.5e+03")


@pytest.mark.parametrize(
    ("text", "quota", "threads", "why"),
    [
        ("max 100000", 0, 4, "4 physical cores"),
        ("150000 100000", 1.5, 1, "cgroup quota 1.5"),
        ("200000", 2, 2, "cgroup quota 2"),
        ("25000 100000", 0.25, 1, "cgroup quota 0.25"),
        ("399999 100000", 3.99999, 3, "cgroup quota 4"),
        ("800000 100000", 8, 4, "4 physical cores"),
        ("0 100000", 0, 4, "4 physical cores"),
        ("200000 0", 0, 4, "4 physical cores"),
        ("-5 100000", 0, 4, "4 physical cores"),
        ("", 0, 4, "4 physical cores"),
        ("nonsense", 0, 4, "4 physical cores"),
        ("200000 x", 0, 4, "4 physical cores"),
        ("99999999999999999999999 1", 9.223372036854775807e18, 4, "4 physical cores"),
    ],
)
def test_quota_v2(four: Root, text: str, quota: float, threads: int, why: str) -> None:
    four.write("/proc/self/cgroup", "0::/a\n")
    four.mount(V2)
    four.write("/sys/fs/cgroup/a/cpu.max", text + "\n")
    t = four.read()
    assert (t["quota"], t["threads"], t["why"]) == (pytest.approx(quota), threads, why)
    assert t["processors"] == pytest.approx(min(quota or 4, 4))


@pytest.mark.parametrize("level", ["", "/a", "/a/b", "/a/b/c"])
def test_every_level_v2(four: Root, level: str) -> None:
    four.write("/proc/self/cgroup", "0::/a/b/c\n")
    four.mount(V2)
    for path in ("/a", "/a/b", "/a/b/c"):
        four.write(f"/sys/fs/cgroup{path}/cpu.max", "350000 100000\n")
    four.write(f"/sys/fs/cgroup{level}/cpu.max", "200000 100000\n")
    assert (four.read()["quota"], four.read()["threads"]) == (2.0, 2)


def test_sibling_groups_do_not_count(four: Root) -> None:
    four.write("/proc/self/cgroup", "0::/a/b\n")
    four.mount(V2)
    four.write("/sys/fs/cgroup/a/bb/cpu.max", "100000 100000\n")
    four.write("/sys/fs/cgroup/b/cpu.max", "100000 100000\n")
    assert four.read()["quota"] == 0


@pytest.mark.parametrize("level", ["", "/docker", "/docker/x"])
def test_every_level_v1(four: Root, level: str) -> None:
    four.write("/proc/self/cgroup", "5:memory:/m\n4:cpu,cpuacct:/docker/x\n3:cpuset:/\n")
    four.mount(V1)
    for path in ("", "/docker", "/docker/x"):
        four.write(f"/sys/fs/cgroup/cpu,cpuacct{path}/cpu.cfs_quota_us", "-1\n")
        four.write(f"/sys/fs/cgroup/cpu,cpuacct{path}/cpu.cfs_period_us", "100000\n")
    assert four.read()["quota"] == 0
    four.write(f"/sys/fs/cgroup/cpu,cpuacct{level}/cpu.cfs_quota_us", "250000\n")
    assert (four.read()["quota"], four.read()["threads"]) == (2.5, 2)


def test_cpuset_and_cpuacct_are_not_cpu(four: Root) -> None:
    four.write("/proc/self/cgroup", "4:cpuacct,cpuset:/x\n")
    four.mount("33 24 0:30 / /sys/fs/cgroup/x rw - cgroup cgroup rw,cpuacct,cpuset\n")
    four.write("/sys/fs/cgroup/x/cpu.cfs_quota_us", "100000\n")
    four.write("/sys/fs/cgroup/x/cpu.cfs_period_us", "100000\n")
    assert four.read()["quota"] == 0


def test_both_versions_at_once(four: Root) -> None:
    four.write("/proc/self/cgroup", "1:cpu:/a\n0::/b\n")
    four.mount(V1, V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified "))
    four.write("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "300000\n")
    four.write("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n")
    four.write("/sys/fs/cgroup/unified/b/cpu.max", "200000 100000\n")
    assert four.read()["quota"] == 2


def test_a_container_that_sees_its_own_group_as_the_top(four: Root) -> None:
    four.write("/proc/self/cgroup", "0::/docker/x/inner\n")
    four.mount("30 24 0:26 /docker/x /sys/fs/my\\040cgroup rw - cgroup2 cgroup2 rw\n")
    four.write("/sys/fs/my cgroup/cpu.max", "300000 100000\n")
    four.write("/sys/fs/my cgroup/inner/cpu.max", "200000 100000\n")
    assert four.read()["quota"] == 2


def test_a_group_outside_the_namespace(four: Root) -> None:
    four.write("/proc/self/cgroup", "0::/../other\n")
    four.mount(V2)
    four.write("/sys/fs/cgroup/cpu.max", "300000 100000\n")
    four.write("/sys/fs/other/cpu.max", "100000 100000\n")
    assert four.read()["quota"] == 3


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("kind", [1, 2])
def test_mounts_of_other_folders(four: Root, kind: int, before: bool) -> None:
    """A hierarchy may be mounted several times; a folder of another container does not count."""
    four.write("/proc/self/cgroup", "0::/docker/x/in\n" if kind == 2 else "4:cpu,cpuacct:/docker/x/in\n")
    end = "rw - cgroup2 cgroup2 rw\n" if kind == 2 else "rw - cgroup cgroup rw,cpu,cpuacct\n"
    mounts = [f"40 24 0:26 {of} /{at} {end}" for of, at in (("/docker/y", "other"), ("/docker/xx", "like"))]
    mounts.insert(0 if before else 2, f"30 24 0:26 /docker/x /own {end}")
    four.mount(*mounts)
    for folder, quota in (("other", 100000), ("like", 100000), ("own/in", 300000), ("own", 400000)):
        names = ("cpu.max",) if kind == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        for name, text in zip(names, (f"{quota}", "100000"), strict=False):
            four.write(f"/{folder}/{name}", f"{text}\n")
    assert four.read()["quota"] == 3


def test_every_mount_counts_that_shows_the_group(four: Root) -> None:
    """One may show only the group itself, another one also the group above it, which has less."""
    four.write("/proc/self/cgroup", "0::/a/b\n")
    four.mount(V2.replace(" / /sys", " /a/b /sys"), "31 24 0:26 / /all rw - cgroup2 cgroup2 rw\n")
    four.write("/sys/fs/cgroup/cpu.max", "300000 100000\n")
    four.write("/all/a/b/cpu.max", "300000 100000\n")
    four.write("/all/a/cpu.max", "200000 100000\n")
    assert four.read()["quota"] == 2


@pytest.mark.parametrize(("line", "folder"), [("0::/a", "/sys/fs/cgroup/a"), ("2:cpu:/a", "/sys/fs/cgroup/cpu/a")])
def test_usual_mounts_where_mountinfo_is_missing(four: Root, line: str, folder: str) -> None:
    four.write("/proc/self/cgroup", line + "\n")
    four.write(f"{folder}/cpu.max", "200000 100000\n")
    four.write(f"{folder}/cpu.cfs_quota_us", "200000\n")
    four.write(f"{folder}/cpu.cfs_period_us", "100000\n")
    assert four.read()["quota"] == 2


def test_nothing_there(root: Root) -> None:
    t = root.read()
    count = os.sysconf("SC_NPROCESSORS_ONLN")
    assert (t["logical"], t["physical"], t["threads"], t["quota"]) == (count, count, count, 0)
    assert t["why"].startswith(f"cores unknown: {count} processor")


def test_cores_unknown(root: Root) -> None:
    t = root.cpus("0-5", {}).read()
    assert (t["physical"], t["threads"], t["why"]) == (6, 6, "cores unknown: 6 processors")


@pytest.mark.parametrize(
    "junk",
    ["", "\n", "-", "0-", "9-3", "0-99999999999999999999", "99999-100000", "\0" * 600, "é", ",,,", "/" * 9000, "::::"],
)
def test_nonsense_files(root: Root, junk: str) -> None:
    root.cpus(junk, {0: junk, 1: junk})
    for path in ("status", "cgroup", "mountinfo"):
        root.write(f"/proc/self/{path}", junk)
    root.write("/sys/devices/cpu_core/cpus", junk)
    root.write("/sys/devices/system/cpu/cpu0/cpu_capacity", junk)
    assert 1 <= root.read()["threads"] <= 8192
    root.write("/proc/self/status", f"Cpus_allowed_list:{junk}")
    root.write("/proc/self/cgroup", f"0::{junk}\n1:cpu:{junk}")
    root.mount(f"1 1 {junk} {junk} - cgroup2 {junk}\n", f"30 24 0:26 {junk} {junk} rw - cgroup x {junk}\n", V2[:30])
    assert 1 <= root.read()["threads"] <= 8192


def test_a_pipe_or_folder_in_place_of_a_file(four: Root) -> None:
    os.mkfifo(four.folder / "proc/self/cgroup")
    (four.folder / "proc/self/mountinfo").mkdir()
    assert four.read()["threads"] == 4


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, (2 << 20) - 1, 2 << 20, (2 << 20) + 1, 9_000_000])
def test_arena_is_zeroed_and_aligned(size: int) -> None:
    for _ in range(2):  # again, so that memory that was given back cannot come back dirty
        got = machine.arena_probe(size)
        assert got is not None
        assert (got["aligned"], got["zero"]) == (True, True)


def test_arena_huge_says_what_the_system_does() -> None:
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    got = machine.arena_probe(4 << 20)
    assert got is not None
    size = enabled.with_name("hpage_pmd_size")
    pages_of_2_mb = not size.exists() or int(size.read_text()) == 2 << 20
    assert got["huge"] == (enabled.exists() and "[never]" not in enabled.read_text() and pages_of_2_mb)


@pytest.mark.parametrize(
    ("enabled", "size", "huge"),
    [
        ("always [madvise] never", 2 << 20, True),
        ("[always] madvise never", 2 << 20, True),
        ("[always] madvise never", None, True),  # before Linux 4.10
        ("always madvise [never]", 2 << 20, False),
        ("[always] madvise never", 512 << 20, False),  # with small pages of 64 KB
        ("[always] madvise never", 32 << 20, False),  # of 16 KB
        (None, None, False),
    ],
)
def test_systems_with_huge_pages_of_2_mb(tmp_path: Path, enabled: str | None, size: int | None, huge: bool) -> None:
    for name, value in (("enabled", enabled), ("hpage_pmd_size", size)):
        if value is not None:
            (tmp_path / name).write_text(f"{value}\n")
    assert machine.has_huge(str(tmp_path)) is huge


@pytest.mark.parametrize("size", [2**64 - 1, 2**64 - 4096, 2**63, 2**56])
def test_arena_that_cannot_be(size: int) -> None:
    assert machine.arena_probe(size, False) is None


def test_arena_gives_back_all_its_addresses() -> None:
    """Trimming to 2 MB leaves no address mapped."""
    code = (
        "size = lambda: int(open('/proc/self/statm').read().split()[0])\n"
        "machine.arena_probe(5_000_001)\nbefore = size()\n"
        "for _ in range(300): machine.arena_probe(5_000_001, False)\nprint(size() - before)"
    )
    assert python(code) == "0"
