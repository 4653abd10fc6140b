"""Builds the C core, one static library per instruction set, and links it into every Cython module.

A folder of csrc/kernels is compiled with its own tier's flags, and nothing else is, so no instruction outside the
baseline can leak into code that every processor runs. Objects are rebuilt when their source, a header they include or
their command line changes. Metadata and dependencies: pyproject.toml.

PELLUCID_CFLAGS is appended to every compile and link line (sanitizers); CC chooses the compiler.
PELLUCID_KERNELS=1 also includes in wheels what only tests and benchmarks need: the package `_kernels`, and AVX-VNNI in
the encodings of AVX-512.
PELLUCID_OPENMP=0 builds without OpenMP: the team is then one of POSIX threads (csrc/cpu/region.c).
PELLUCID_ABI3=0 builds modules for only this Python, to measure the cost of its stable interface (benchmarks/abi3.py).

A wheel for another processor: the variables of Python's own cross builds, _PYTHON_HOST_PLATFORM=linux-aarch64 and
_PYTHON_SYSCONFIGDATA_NAME, and CC (packaging/cross).
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

CSRC = Path("csrc")
PACKAGES = Path("src")
MACOS = sys.platform == "darwin"
BASELINE = ("cpu", "formats", "quantize", "cache", "ops", "engine", "kernels", "kernels/scalar")
# Files without loops over numbers, which run a few times per model or pass, or for inspection: compiled for size.
SMALL = {
    "cache": ("pages", "pool", "sequence", "states"),
    "cpu": ("arena", "detect", "file", "limit", "quota", "settle", "system", "thread", "topology"),
    "engine": ("attention", "error", "forms", "forward", "keys", "model", "pack", "pass", "plan", "trial"),
    "kernels": ("select", "tuning"),
    "ops": ("reattend", "table"),
    "quantize": ("job",),
}
# No -ffast-math and no contraction: a sum's order and rounding are part of the contract.
COMMON = shlex.split("-std=gnu11 -O3 -ffp-contract=off -fno-math-errno -fPIC -fvisibility=hidden -pthread")
# Functions that take or return wide vectors are all inlined: the convention for passing them does not matter.
WARNINGS = ["-Wall", "-Wextra", "-Wno-psabi"]
# Threads' stacks may be small (kernels/kernels.h): frames above the limit are errors; large frames touch every page.
FRAME_BYTES = 8192
FRAMES = (f"-Werror=frame-larger-than={FRAME_BYTES}", f"-Wframe-larger-than={FRAME_BYTES} -Werror=frame-larger-than")
CLASH = "-fstack-clash-protection"
# Compiled for size: 180 KB less, and a pass takes 0.2 us more.
GENERATED = shlex.split(
    "-Os -fno-inline-functions-called-once -fno-plt -DNDEBUG -fPIC -fvisibility=hidden -fno-strict-aliasing -pthread -w"
)
# No C object can be pickled, and methods are not introspected: code for either would only take space.
DIRECTIVES = {"language_level": 3, "auto_pickle": False, "binding": False}
# Modules use the stable interface of this Python and run in every later one; free-threaded Pythons have none yet.
STABLE = None if sysconfig.get_config_var("Py_GIL_DISABLED") or os.environ.get("PELLUCID_ABI3") == "0" else (3, 11)


@dataclass(frozen=True)
class Isa:
    """A tier: its folder in csrc/kernels, compile flags, machine, and a line of C that needs the flags."""

    name: str
    machine: str
    flags: str
    header: str
    probe: str
    folder: str = ""  # if it is not `name`: a tier whose sources are built a second time, for tests

    @property
    def sources(self) -> str:
        return self.folder or self.name

    @property
    def define(self) -> str:
        """The macro that C tests to see whether the build includes the tier."""
        return f"-DPL_HAVE_{self.name.upper()}"


AVX2 = "-mavx2 -mfma -mf16c -mbmi2"
AVX512 = f"{AVX2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni"
X86 = ("x86_64", "immintrin.h")
ARM = ("aarch64", "arm_neon.h")
TIERS = (
    Isa("avx2", X86[0], AVX2, X86[1], "__m256 f(__m256 a) { return _mm256_fmadd_ps(a, a, a); }"),
    Isa("avxvnni", X86[0], f"{AVX2} -mavxvnni", X86[1],
        "__m256i f(__m256i a) { return _mm256_dpbusd_avx_epi32(a, a, a); }"),
    # The same sources in the encodings of AVX-512, so that processors that have only those can test them.
    Isa("avxvnni_evex", X86[0], f"{AVX2} -mavx512f -mavx512vl -mavx512vnni -DPL_EVEX", X86[1],
        "__m256i f(__m256i a) { return _mm256_dpbusd_epi32(a, a, a); }", folder="avxvnni"),
    Isa("avx512", X86[0], AVX512, X86[1], "__m512i f(__m512i a) { return _mm512_dpbusd_epi32(a, a, a); }"),
    Isa("avx512bf16", X86[0], f"{AVX512} -mavx512bf16", X86[1],
        "__m512 f(__m512 a, __m512bh b) { return _mm512_dpbf16_ps(a, b, b); }"),
    Isa("amx", X86[0], f"{AVX512} -mavx512bf16 -mamx-tile -mamx-int8 -mamx-bf16", X86[1],
        "void f(void) { _tile_dpbssd(0, 1, 2); _tile_dpbf16ps(0, 1, 2); }"),
    Isa("neon", ARM[0], "-march=armv8.2-a+dotprod", ARM[1],
        "int32x4_t f(int32x4_t a, int8x16_t b) { return vdotq_s32(a, b, b); }"),
    Isa("i8mm", ARM[0], "-march=armv8.2-a+dotprod+i8mm", ARM[1],
        "int32x4_t f(int32x4_t a, int8x16_t b) { return vmmlaq_s32(a, b, b); }"),
)  # fmt: skip


def machine() -> str:
    """The processor family of the build, as named in TIERS."""
    host = os.environ.get("_PYTHON_HOST_PLATFORM", "").rpartition("-")[2]
    name = (host or platform.machine()).lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def fail(what: str, fix: str) -> SystemExit:
    """The error that ends a build: what is missing, and the command that installs it on Debian or Ubuntu."""
    return SystemExit(f"pellucid cannot be built: {what}\n  fix: {fix}")


def extra_flags() -> list[str]:
    return shlex.split(os.environ.get("PELLUCID_CFLAGS", ""))


def openmp() -> list[str]:
    """The flag for OpenMP, or its replacement."""
    without = MACOS or os.environ.get("PELLUCID_OPENMP") == "0"
    return ["-DPL_REGION_PTHREADS"] if without else ["-fopenmp"]


def all_in_wheels() -> bool:
    """Whether wheels include what only tests need."""
    return os.environ.get("PELLUCID_KERNELS") == "1"


def only_tests_need(package: str) -> bool:
    """Whether wheels leave a package or a module out."""
    return "_kernels" in package.split(".") and not all_in_wheels()


def find_compiler() -> list[str]:
    """The compiler's command: $CC, else the one with which Python was built, else cc, gcc or clang."""
    asked = os.environ.get("CC")
    for command in [asked] if asked else [sysconfig.get_config_var("CC"), "cc", "gcc", "clang"]:
        words = shlex.split(command or "")
        if words and shutil.which(words[0]):
            return words
    what = f"CC={asked} is not a program" if asked else "there is no C compiler"
    raise fail(what, "apt install gcc python3-dev python3-venv")


def compiles(cc: list[str], flags: list[str], text: str, *, link: bool = False) -> bool:
    """Whether a C program of one file compiles with `flags` (and links)."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text(text + "\n")
        command = [*cc, *flags, *([] if link else ["-c"]), str(source), "-o", str(Path(folder, "probe.out"))]
        return subprocess.run(command, capture_output=True).returncode == 0


def check_toolchain(cc: list[str], include: list[str]) -> None:
    """Raises SystemExit, naming the remedy, if the compiler, Python.h or omp.h is missing."""
    if not compiles(cc, [], '#include <stdio.h>\nint main(void) { return puts("") < 0; }', link=True):
        raise fail(
            f"{shlex.join(cc)} does not compile a C program", "apt install gcc libc6-dev python3-dev python3-venv"
        )
    if not any(Path(folder, "Python.h").is_file() for folder in include):
        raise fail(f"Python.h is not in {', '.join(include)}", "apt install gcc python3-dev python3-venv")
    program = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }"
    if "-fopenmp" in openmp() and not compiles(cc, ["-fopenmp"], program, link=True):
        raise fail(
            f"{shlex.join(cc)} has no omp.h (OpenMP)",
            "apt install gcc (with gcc), apt install libomp-dev (with clang); or build without: PELLUCID_OPENMP=0",
        )


def stack_flags(cc: list[str], extra: list[str]) -> list[str]:
    """The flags that keep frames small, in the compiler's spelling; a sanitizer's frames are exempt."""
    frame = "int g(char *);\nint f(void) { char a[%d]; return g(a); }"
    flags = [CLASH] if compiles(cc, ["-Werror", CLASH], frame % 64) else []
    if any(flag.startswith("-fsanitize") for flag in extra):
        return flags
    for spelling in map(shlex.split, FRAMES):
        if compiles(cc, ["-Werror", *spelling], frame % 64) and not compiles(cc, spelling, frame % (FRAME_BYTES + 64)):
            return [*flags, *spelling]
    return flags


def tiers(cc: list[str], root: Path = CSRC) -> list[Isa]:
    """The tiers of this machine that have sources under `root` and that the compiler can build."""
    found = [t for t in TIERS if t.machine == machine() and any((root / "kernels" / t.sources).glob("*.c"))]
    return [t for t in found if compiles(cc, shlex.split(t.flags), f"#include <{t.header}>\n{t.probe}")]


def core_jobs(cc: list[str], built: list[Isa]) -> list[tuple[str, list[str], Path]]:
    """(tier, flags, file) for every file of csrc. built: the tiers that the compiler knows."""
    core = [*COMMON, *openmp(), *WARNINGS, *stack_flags(cc, extra_flags()), f"-I{CSRC}", *(t.define for t in built)]
    small = {CSRC / folder / f"{name}.c" for folder, names in SMALL.items() for name in names}
    files = [p for folder in BASELINE for p in sorted((CSRC / folder).glob("*.c"))]
    jobs = [("scalar", [*core, "-Os"] if p in small else core, p) for p in files]
    for tier in built:
        flags = [*core, *shlex.split(tier.flags)]
        jobs += [(tier.name, flags, p) for p in sorted((CSRC / "kernels" / tier.sources).glob("*.c"))]
    return jobs


def cython_modules(root: Path = PACKAGES) -> list[Extension]:
    """One extension per .pyx file, named by its path."""
    files = sorted(root.rglob("*.pyx"))
    names = [".".join(p.relative_to(root).with_suffix("").parts) for p in files]
    return [Extension(name, [str(p)], py_limited_api=bool(STABLE)) for name, p in zip(names, files, strict=True)]


def stable_abi() -> list[str]:
    """The macro that keeps a module to Python's stable interface, or nothing."""
    return [f"-DPy_LIMITED_API=0x{STABLE[0]:02x}{STABLE[1]:02x}0000"] if STABLE else []


def stale(target: Path, command: str) -> bool:
    """Whether `target` is missing, was built with another command, or is older than a file in its .d list."""
    try:
        if target.with_suffix(".cmd").read_text() != command:
            return True
        born = target.stat().st_mtime_ns
        needed = target.with_suffix(".d").read_text().replace("\\\n", " ").partition(":")[2].split()
        return any(Path(p).stat().st_mtime_ns > born for p in needed)
    except OSError:
        return True


def run(target: Path, command: list[str]) -> None:
    """Runs a compile or archive command that makes `target` and records it; SystemExit if it fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"pellucid cannot be built: {shlex.join(command)}\n{result.stdout}{result.stderr}")
    if result.stderr:
        print(result.stderr, end="", flush=True)
    target.with_suffix(".cmd").write_text(shlex.join(command))


def compile_object(cc: list[str], flags: list[str], source: Path, folder: Path) -> Path:
    """Compiles one file into `folder` unless its object is up to date."""
    target = folder / ("_".join(source.with_suffix("").parts[-4:]) + ".o")
    command = [*cc, *flags, "-MMD", "-MF", str(target.with_suffix(".d")), "-c", str(source), "-o", str(target)]
    if stale(target, shlex.join(command)):
        print(f"cc {source} -> {folder.name}\n", end="", flush=True)  # one write, since other threads print too
        run(target, command)
    return target


def make_archive(target: Path, objects: list[Path]) -> Path:
    """A static library of exactly `objects`."""
    command = [os.environ.get("AR") or "ar", "rcs", str(target), *map(str, objects)]
    target.with_suffix(".d").parent.mkdir(parents=True, exist_ok=True)
    target.with_suffix(".d").write_text(": " + " ".join(map(str, objects)))
    if stale(target, shlex.join(command)):
        target.unlink(missing_ok=True)  # ar would keep the objects of deleted files
        run(target, command)
    return target


class BuildPy(build_py):
    """Leaves out of a wheel what only tests need; a development build finds them in src."""

    packages: list[str]

    def finalize_options(self) -> None:
        super().finalize_options()
        self.packages = [name for name in self.packages or [] if not only_tests_need(name)]


class BuildExt(build_ext):
    """Compiles csrc and the Cython modules in parallel, then lets setuptools link each module."""

    extensions: list[Extension]

    def finalize_options(self) -> None:
        super().finalize_options()
        self.in_source = bool(self.inplace)  # setuptools switches `inplace` off while it builds
        if not self.in_source:
            self.extensions = [ext for ext in self.extensions if not only_tests_need(ext.name)]

    def build_extensions(self) -> None:
        if not self.extensions:
            return
        cc = find_compiler()
        check_toolchain(cc, self.include_dirs)
        temp = Path(self.build_temp)
        built = [t for t in tiers(cc) if not t.folder or self.in_source or all_in_wheels()]
        print("instruction sets:", ", ".join(["scalar", *(t.name for t in built)]), flush=True)
        jobs = core_jobs(cc, built)
        generated = [*GENERATED, *stable_abi(), *openmp(), f"-I{CSRC}", *(t.define for t in built)]
        generated += [f"-I{p}" for p in self.include_dirs]
        modules = self.translate(temp / "cython")
        jobs += [("modules", generated, path) for path in modules.values()]

        # A debugger wants names and frames; a wheel is two thirds as large without them.
        small = not self.in_source and not MACOS
        frames, strip = (["-fno-asynchronous-unwind-tables"], ["-Wl,-s"]) if small else ([], [])

        def work(job: tuple[str, list[str], Path]) -> Path:
            return compile_object(cc, [*job[1], *frames, *extra_flags()], job[2], temp / job[0])

        cores = os.cpu_count() or 1 if MACOS else len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(min(8, cores)) as pool:
            objects = list(pool.map(work, jobs))
        made: dict[str, list[Path]] = {}
        for (name, _, _), target in zip(jobs, objects, strict=True):
            made.setdefault(name, []).append(target)
        by_source = {source: target for (_, _, source), target in zip(jobs, objects, strict=True)}
        made.pop("modules")
        archives = [str(make_archive(temp / f"libpellucid_{name}.a", group)) for name, group in made.items()]
        for ext in self.extensions:
            module = str(by_source[modules[ext.name]])
            ext.sources, ext.extra_objects, ext.depends = [], [module], [module, *archives]
            # The libraries need each other: the selector names every tier, tiers use the formats.
            grouped = archives if MACOS else ["-Wl,--start-group", *archives, "-Wl,--end-group"]
            ext.extra_link_args = [*grouped, *openmp(), "-pthread", "-lm", *strip, *extra_flags()]
        self.compiler.force = True  # its own check ignores archives
        super().build_extensions()

    def copy_extensions_to_source(self) -> None:
        """Also deletes modules that earlier builds named differently: Python could prefer them to the new ones."""
        super().copy_extensions_to_source()
        for ext in self.extensions:
            made = Path(self.get_ext_fullpath(ext.name))
            for other in made.parent.glob(f"{made.name.partition('.')[0]}.*.so"):
                if other.name != made.name:
                    other.unlink()

    def translate(self, folder: Path) -> dict[str, Path]:
        """Cython -> C; module name -> its C file."""
        try:
            from Cython.Build import cythonize
            from Cython.Compiler import Options
        except ImportError:
            raise fail("Cython is not installed", "pip install cython") from None
        Options.docstrings = bool(self.in_source)  # of private modules; wheels do without
        made = cythonize(list(self.extensions), build_dir=str(folder), include_path=[str(PACKAGES)],
                         compiler_directives=DIRECTIVES, quiet=True)  # fmt: skip
        return {ext.name: Path(ext.sources[0]) for ext in made}


if __name__ == "__main__":
    tag = {"py_limited_api": f"cp{STABLE[0]}{STABLE[1]}"} if STABLE else {}
    setup(
        ext_modules=cython_modules(),
        cmdclass={"build_ext": BuildExt, "build_py": BuildPy},
        options={"bdist_wheel": tag},
    )
