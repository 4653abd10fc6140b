"""setup.py: what it builds, when it rebuilds, and its messages when something is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
SUFFIX = ".abi3.so"
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]


@pytest.fixture(scope="module")
def build() -> Iterator[ModuleType]:
    """setup.py as a module."""
    spec = importlib.util.spec_from_file_location("pellucid_setup", ROOT / "setup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["pellucid_setup"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["pellucid_setup"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of four small files, built by Pellucid's setup.py."""
    shutil.copy(ROOT / "setup.py", tmp_path)
    files = {
        "pyproject.toml": '[project]\nname = "tiny"\nversion = "1"\n[tool.setuptools.packages.find]\nwhere = ["src"]\n',
        "csrc/formats/three.h": "#define THREE 3\nint pl_three(void);\n",
        "csrc/formats/three.c": '#include "three.h"\nint pl_three(void)\n{\n    return THREE;\n}\n',
        "csrc/ops/idle.c": "int pl_idle(void);\nint pl_idle(void)\n{\n    return 0;\n}\n",
        "src/tiny/__init__.py": "",
        "src/tiny/m.pyx": 'cdef extern from "formats/three.h":\n    int pl_three()\n\n'
        "def three():\n    return pl_three()\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def build_in_place(project: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    clean = {k: v for k, v in os.environ.items() if k not in ("CC", "PELLUCID_CFLAGS")}
    return subprocess.run(command, cwd=project, env={**clean, **env}, capture_output=True, text=True)


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def compiled(output: str) -> set[str]:
    """Names of the files that a build's output lists as compiled."""
    return {Path(line.split()[1]).name for line in output.splitlines() if line.startswith("cc ")}


def test_builds_and_builds_again_what_changed(project: Path) -> None:
    def three() -> str:
        code = "from tiny.m import three; print(three())"
        return subprocess.run(
            [sys.executable, "-c", code], cwd=project / "src", capture_output=True, text=True
        ).stdout.strip()

    first = build_in_place(project)
    assert first.returncode == 0, first.stderr
    assert compiled(first.stdout) == {"three.c", "idle.c", "m.c"}
    assert (project / "src" / "tiny" / f"m{SUFFIX}").is_file()
    assert not list((project / "src").rglob("*.c"))  # generated C stays in build/
    assert three() == "3"
    assert compiled(build_in_place(project).stdout) == set()

    (project / "csrc/formats/three.h").write_text("#define THREE 33\nint pl_three(void);\n")
    assert compiled(build_in_place(project).stdout) == {"three.c", "m.c"}
    assert three() == "33"
    assert compiled(build_in_place(project, PELLUCID_CFLAGS="-DX").stdout) == {"three.c", "idle.c", "m.c"}


def test_a_module_of_an_earlier_build_goes(project: Path) -> None:
    """Python prefers the name with its own version to that of the stable interface."""
    old = project / "src" / "tiny" / f"m{sysconfig.get_config_var('EXT_SUFFIX')}"
    kept = project / "src" / "tiny" / f"mm{sysconfig.get_config_var('EXT_SUFFIX')}"
    for path in (old, kept):
        path.write_bytes(b"")
    assert build_in_place(project).returncode == 0
    assert not old.exists() and kept.exists() and (project / "src" / "tiny" / f"m{SUFFIX}").is_file()


def wheel_names(project: Path, **env: str) -> set[str]:
    shutil.rmtree(project / "dist", ignore_errors=True)
    shutil.rmtree(project / "build", ignore_errors=True)
    command = [sys.executable, "setup.py", "-q", "bdist_wheel"]
    subprocess.run(command, cwd=project, env={**os.environ, **env}, check=True, capture_output=True)
    (made,) = (project / "dist").glob("tiny-1-cp311-abi3-*.whl")
    return {name for name in zipfile.ZipFile(made).namelist() if name.endswith((".py", ".so"))}


def test_what_only_tests_need_is_in_wheels_on_request(project: Path) -> None:
    folder = project / "src" / "tiny" / "_kernels"
    folder.mkdir()
    (folder / "__init__.py").touch()
    shutil.copy(project / "src" / "tiny" / "m.pyx", folder / "k.pyx")
    ordinary = {"tiny/__init__.py", "tiny/m.abi3.so"}
    assert wheel_names(project) == ordinary
    assert wheel_names(project, PELLUCID_KERNELS="1") == ordinary | {
        "tiny/_kernels/__init__.py",
        "tiny/_kernels/k.abi3.so",
    }
    assert build_in_place(project).returncode == 0
    assert (folder / "k.abi3.so").is_file()


def test_a_tier_that_is_built_twice_is_in_wheels_on_request(project: Path) -> None:
    """setup.py's own tiers, of which an empty file stands for the sources."""
    (project / "csrc/kernels/avxvnni").mkdir(parents=True)
    (project / "csrc/kernels/avxvnni/idle.c").write_text("typedef int pl_nothing;\n")
    command = [sys.executable, "setup.py", "bdist_wheel"]
    for wanted in ("0", "1"):
        env = {**os.environ, "PELLUCID_KERNELS": wanted, "_PYTHON_HOST_PLATFORM": "linux-x86_64"}
        done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=True)
        assert ("avxvnni_evex" in done.stdout) == (wanted == "1")
        shutil.rmtree(project / "build")
    assert "avxvnni_evex" in build_in_place(project).stdout


def test_without_openmp(project: Path) -> None:
    (project / "csrc/ops/idle.c").write_text(
        "#if defined(_OPENMP) || !defined(PL_REGION_PTHREADS)\n#error OpenMP\n#endif\ntypedef int pl_nothing;\n"
    )
    assert build_in_place(project).returncode == 1
    assert build_in_place(project, PELLUCID_OPENMP="0").returncode == 0


def test_modules_for_this_python_alone(project: Path) -> None:
    (project / "csrc/ops/idle.c").write_text("typedef int pl_nothing;\n")
    own = project / "src" / "tiny" / f"m{sysconfig.get_config_var('EXT_SUFFIX')}"
    assert build_in_place(project, PELLUCID_ABI3="0").returncode == 0
    assert own.is_file() and not own.with_name(f"m{SUFFIX}").exists()
    assert build_in_place(project).returncode == 0
    assert not own.exists() and own.with_name(f"m{SUFFIX}").is_file()


def test_modules_are_compiled_to_be_small(project: Path) -> None:
    assert build_in_place(project).returncode == 0
    (command,) = project.glob("build/**/modules/*.cmd")
    assert [word for word in command.read_text().split() if word.startswith("-O")] == ["-Os"]


def test_cflags_reach_the_compiler(project: Path) -> None:
    (project / "csrc/ops/idle.c").write_text("#ifndef WANTED\n#error not wanted\n#endif\ntypedef int pl_nothing;\n")
    assert build_in_place(project, PELLUCID_CFLAGS="-DWANTED").returncode == 0


FRAME = "void pl_use(char *);\nvoid pl_idle(void);\nvoid pl_idle(void) { char a[%d]; pl_use(a); }\n"


@pytest.mark.parametrize("cc", COMPILERS)
def test_a_frame_too_large_for_small_stacks_is_an_error(project: Path, cc: str) -> None:
    source = project / "csrc/ops/idle.c"
    (project / "csrc/ops/use.c").write_text("void pl_use(char *);\nvoid pl_use(char *a) { *a = 0; }\n")
    source.write_text(FRAME % 8000)
    assert build_in_place(project, CC=cc).returncode == 0
    source.write_text(FRAME % 9000)
    done = build_in_place(project, CC=cc)
    assert done.returncode == 1 and "frame" in done.stderr and "8192" in done.stderr
    assert build_in_place(project, CC=cc, PELLUCID_CFLAGS="-fsanitize=undefined").returncode == 0


@pytest.mark.parametrize("cc", COMPILERS)
def test_large_frames_touch_each_page(build: ModuleType, cc: str) -> None:
    flags = build.stack_flags([cc], [])
    assert "-fstack-clash-protection" in flags and any("frame-larger-than" in flag for flag in flags)


def test_a_broken_source_shows_the_compilers_words(project: Path) -> None:
    (project / "csrc/ops/idle.c").write_text("int pl_idle(void) { return nowhere; }\n")
    done = build_in_place(project)
    assert done.returncode == 1
    assert "csrc/ops/idle.c" in done.stderr and "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_compiler(project: Path) -> None:
    done = build_in_place(project, CC="/nonexistent/cc -O1")
    assert done.returncode == 1
    assert "CC=/nonexistent/cc -O1 is not a program\n  fix: apt install gcc python3-dev python3-venv\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "build").exists()


def test_no_compiler_anywhere(build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build.sysconfig, "get_config_var", lambda name: "gcc -pthread")
    with pytest.raises(SystemExit, match=r"there is no C compiler\n  fix: apt install gcc python3-dev python3-venv"):
        build.find_compiler()
    script(tmp_path / "clang", "exit 0")
    assert build.find_compiler() == ["clang"]
    script(tmp_path / "gcc", "exit 0")
    assert build.find_compiler() == ["gcc", "-pthread"]


def test_a_compiler_without_a_c_library(build: ModuleType, tmp_path: Path) -> None:
    cc = script(tmp_path / "cc", "exit 1")
    with pytest.raises(SystemExit, match=r"does not compile a C program\n  fix: apt install gcc libc6-dev"):
        build.check_toolchain([cc], [sysconfig.get_path("include")])


def test_no_python_h(build: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"Python\.h is not in .*\n  fix: apt install gcc python3-dev python3-venv"):
        build.check_toolchain(build.find_compiler(), [str(tmp_path)])


def test_no_omp_h(build: ModuleType, tmp_path: Path) -> None:
    real = " ".join(build.find_compiler())
    cc = script(tmp_path / "cc", f'case "$*" in *-fopenmp*) exit 1;; esac\nexec {real} "$@"')
    with pytest.raises(SystemExit, match=r"no omp\.h \(OpenMP\)\n  fix: apt install .*libomp-dev"):
        build.check_toolchain([cc], [sysconfig.get_path("include")])


def test_this_machine_can_build(build: ModuleType) -> None:
    build.check_toolchain(build.find_compiler(), [sysconfig.get_path("include")])


def test_tiers(build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here, line = build.machine(), "int f(void) { return 0; }"
    table = (
        build.Isa("good", here, "-O1", "stdint.h", line),
        build.Isa("flagless", here, "-mno-such-flag", "stdint.h", line),
        build.Isa("headerless", here, "-O1", "no_such_header.h", line),
        build.Isa("empty", here, "-O1", "stdint.h", line),
        build.Isa("absent", here, "-O1", "stdint.h", line),
        build.Isa("elsewhere", "pdp11", "-O1", "stdint.h", line),
    )
    monkeypatch.setattr(build, "TIERS", table)
    for tier in table[:4] + table[5:]:
        (tmp_path / "kernels" / tier.name).mkdir(parents=True)
        if tier.name != "empty":
            (tmp_path / "kernels" / tier.name / "rows.c").touch()
    assert [t.name for t in build.tiers(build.find_compiler(), tmp_path)] == ["good"]
    assert table[0].define == "-DPL_HAVE_GOOD"


def test_the_machine_is_that_of_a_cross_build(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.platform, "machine", lambda: "AMD64")
    assert build.machine() == "x86_64"
    for host, wanted in (("linux-aarch64", "aarch64"), ("macosx-11.0-arm64", "aarch64"), ("linux-x86_64", "x86_64")):
        monkeypatch.setenv("_PYTHON_HOST_PLATFORM", host)
        assert build.machine() == wanted


def test_every_tier_of_the_table_has_its_own_flags(build: ModuleType) -> None:
    names = [t.name for t in build.TIERS]
    assert names == ["avx2", "avxvnni", "avxvnni_evex", "avx512", "avx512bf16", "amx", "neon", "i8mm"]
    assert len({t.flags for t in build.TIERS}) == len(names)
    x86 = {t.name: set(t.flags.split()) for t in build.TIERS if t.machine == "x86_64"}
    assert x86["avx2"] < x86["avx512"] < x86["avx512bf16"]
    assert "-ffp-contract=off" in build.COMMON and "-ffast-math" not in build.COMMON
