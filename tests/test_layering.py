"""Which module may depend on which, checked from #include lines and imports."""

from __future__ import annotations

import ast
import posixpath
import re
import subprocess
import sys
from collections.abc import Container
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC, PYTHON = ROOT / "csrc", ROOT / "src" / "pellucid"
LONGEST, LONGEST_FUNCTION = 500, 80  # lines of a file; of a C function, but for kernels

# ---- C ---------------------------------------------------------------------------------------------------
# Folder -> what its files may include besides their own folder: a folder, or one header of it.
C_MAY = {
    "cpu": (),
    "formats": (),
    "quantize": ("kernels/kernels.h", "kernels/select.h", "formats/formats.h", "cpu/detect.h", "cpu/team.h"),
    "kernels": ("formats/formats.h",),
    "cache": ("kernels/kernels.h", "formats/formats.h", "cpu/"),
    "ops": ("cache/", "kernels/kernels.h", "formats/formats.h", "cpu/"),
    "engine": (
        "ops/",
        "cache/",
        "kernels/kernels.h",
        "kernels/select.h",
        "kernels/tuning.h",
        "formats/formats.h",
        "cpu/",
        "pellucid.h",
    ),
    "": (
        "cache/sequence.h",
        "cpu/detect.h",
        "cpu/topology.h",
        "engine/sample.h",
        "formats/names.h",
        "kernels/tuning.h",
        "ops/table.h",
        "quantize/integers.h",
        "quantize/quantize.h",
    ),  # pellucid.h
}
C_EXCEPT = {"kernels/select.c": ("cpu/detect.h",), "kernels/tuning.c": ("cpu/detect.h",)}
# A folder of kernels/: these and its own headers.
# What tiers share, without vector instructions of theirs.
SHARED = tuple(
    f"{name}.h"
    for name in ("common", "matmul", "prefetch", "chunks", "attend", "activations", "layer_norm", "recurrent", "fit")
)
TIER_MAY = ("kernels/kernels.h", *(f"kernels/{name}" for name in SHARED), "formats/formats.h")
TIER_OVER = {
    "kernels/avxvnni": ("kernels/avx2/",),
    "kernels/avx512bf16": ("kernels/avx512/",),
    "kernels/amx": ("kernels/avx512/", "kernels/avx512bf16/"),
    "kernels/i8mm": ("kernels/neon/",),
}  # and those of what it extends
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.M)
CONDITION = re.compile(r"^[ \t]*#[ \t]*(?:if|ifdef|ifndef|elif)\b(?:.*\\\n)*.*", re.M)
ISA = re.compile(r"__(?:AVX|SSE|FMA|F16C|BMI|ARM|aarch64|x86_64|i386)|PL_HAVE_")


def c_violations(name: str, text: str) -> list[str]:
    """The includes and uses of the file `name` (relative to csrc) that are not allowed."""
    found = []
    folder = posixpath.dirname(name)
    area = folder.split("/")[0]
    if area == "kernels" and folder != area:
        may: tuple[str, ...] = (*TIER_MAY, *TIER_OVER.get(folder, ()))
    else:
        may = (*C_MAY[area], *C_EXCEPT.get(name, ()))
    for bracket, header in INCLUDE.findall(text):
        if header == "Python.h":
            found.append(f"{name}: includes Python.h")
        elif header == "omp.h":
            if name != "cpu/region.c":
                found.append(f"{name}: only cpu/region.c may include omp.h")
        elif bracket == '"':
            target = posixpath.normpath(posixpath.join(folder, header))
            known = any(target == m or (m.endswith("/") and target.startswith(m)) for m in may)
            if posixpath.dirname(target) != folder and not known:
                found.append(f"{name}: may not include {target}")
    if area not in ("kernels", "cpu"):
        found += [f"{name}: asks for an instruction set: {c.strip()}" for c in CONDITION.findall(text) if ISA.search(c)]
    return found


def test_c_layers() -> None:
    files = sorted(p for p in CSRC.rglob("*") if p.suffix in (".c", ".h"))
    assert files
    assert [v for p in files for v in c_violations(p.relative_to(CSRC).as_posix(), p.read_text())] == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cpu/arena.c", '#include "../formats/formats.h"'),
        ("formats/legacy.c", '#include "../kernels/kernels.h"'),
        ("kernels/avx2/rows.c", '#include "../scalar/simd.h"'),
        ("kernels/avx2/rows.c", '#include "../../cpu/team.h"'),
        ("kernels/avx2/rows.c", '#include "../select.h"'),
        ("ops/rope.c", '#include "../kernels/common.h"'),
        ("kernels/other.c", '#include "../cpu/detect.h"'),
        ("ops/rope.c", '#include "../engine/plan.h"'),
        ("ops/rope.c", '#include "../kernels/avx2/simd.h"'),
        ("ops/rope.c", '#include "../pellucid.h"'),
        ("cache/pages.c", '  #  include "../ops/ops.h"'),
        ("engine/forward.c", "#include <omp.h>"),
        ("engine/forward.c", "#include <Python.h>"),
        ("engine/forward.c", "#ifdef __AVX2__"),
        ("ops/head.c", "#if defined(X) && \\\n    defined(PL_HAVE_NEON)"),
    ],
)
def test_c_checker_objects(name: str, text: str) -> None:
    assert len(c_violations(name, text)) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cpu/region.c", "#include <omp.h>"),
        ("kernels/select.c", '#include "kernels.h"\n#include "../cpu/detect.h"\n#ifdef PL_HAVE_AVX2'),
        ("kernels/avx2/simd.h", '#include "../common.h"\n#include <immintrin.h>'),
        ("kernels/avx2/matmul_int.h", '#include "../matmul.h"'),
        ("kernels/avx2/rows.c", '#include "simd.h"'),
        ("engine/forward.c", '#include "../ops/ops.h"\n#include "../pellucid.h"\n#include "plan.h"\n#ifdef NDEBUG'),
    ],
)
def test_c_checker_accepts(name: str, text: str) -> None:
    assert c_violations(name, text) == []


# ---- Python and Cython -----------------------------------------------------------------------------------
# First name below pellucid -> the names it may know; what those know, it may know too. All may know errors.
# Every import counts: those of functions, and those under `if TYPE_CHECKING:`, too.
EDGES = {
    "adapters": ("batch", "observers", "openai"),
    "compat": ("adapters",),
    "__main__": ("cli",),
    "cli": ("bench", "making", "families", "batch", "__init__"),
    "batch": ("server",),
    "server": ("__init__", "openai"),
    "openai": ("core", "results"),
    "making": ("core",),
    "bench": ("__init__",),
    "__init__": ("model",),
    "edit_calls": ("look",),
    "model": ("edit_calls", "async_calls", "cache_folder", "context", "info", "pickled", "progress", "snapshot"),
    "async_calls": ("calls", "asynchronous"),
    "calls": ("look", "embedding"),
    "embedding": ("schedule", "pooling"),
    "asynchronous": ("results",),
    "look": ("schedule", "info", "page"),
    "page": (),
    "schedule": ("asynchronous", "generation", "snapshot", "streams", "trimming"),
    "context": ("look", "asynchronous", "saved", "uses"),
    "uses": (),
    "saved": ("core",),
    "cache_folder": ("saved", "schedule"),
    "generation": ("log", "observers", "options", "guide"),
    "guide": ("reply", "bound", "core"),
    "reply": ("functions", "results", "text"),
    "functions": (),
    "trimming": ("core",),
    "streams": ("display", "results"),
    "display": ("markup",),
    "options": ("sampling",),
    "bound": ("text",),
    "structure": ("checks",),
    "core": (
        "arguments",
        "checks",
        "later",
        "log",
        "memory",
        "tokenizer",
        "tuning",
        "weights",
        "text",
        "arch",
        "_engine",
        "pooling",
        "sharing",
    ),
    "sharing": ("checks", "log", "plan", "snapshot", "weights", "_engine"),
    "arguments": ("checks",),
    "later": ("native",),
    "tuning": ("checks", "processor", "weights", "_engine"),
    "log": (),
    "observers": (),
    "memory": (),
    "native": (),
    "results": ("markup", "sampling"),
    "info": ("plan", "markup"),
    "markup": (),
    "tokenizer": ("chat_files", "gguf_vocabulary", "text", "tokenizer_classes", "weights", "progress"),
    "chat_files": (),
    "tokenizer_classes": (),
    "gguf_vocabulary": ("chat_files", "text"),
    "progress": ("markup", "weights"),
    "arch": ("experts", "latent", "recurrent", "plan", "wrappers", "rotary"),
    "experts": ("plan", "_engine"),
    "latent": ("plan",),
    "recurrent": ("plan", "_engine"),
    "weights": ("parts", "_parsers", "_engine", "folder", "log", "pooling", "rotary", "tokenizer_classes"),
    "text": ("_parsers", "checks", "native", "structure"),
    "plan": ("tables", "parts"),
    "tables": ("entries", "parts"),
    "entries": ("_engine",),
    "checks": (),
    "sampling": ("checks", "structure"),
    "errors": (),
    "families": (),
    "folder": (),
    "wrappers": ("folder",),
    "parts": (),
    "pickled": (),
    "pooling": (),
    "processor": ("_engine",),
    "rotary": (),
    "snapshot": (),
    "_engine": (),
    "_sampler": (),  # a part of _engine
    "_parsers": (),
    "_kernels": (),
}
# Headers of csrc that a binding may declare from; a name that ends in / is a folder.
BINDINGS = {
    "_engine": ("pellucid.h",),
    "_kernels": ("kernels/kernels.h", "kernels/select.h", "formats/formats.h", "cpu/", "engine/sample.h"),
}
CYTHON_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+c?import[ \t]+([^#\n]+)|c?import[ \t]+([\w., \t]+))", re.M
)
EXTERN = re.compile(r"^[ \t]*cdef[ \t]+extern[ \t]+from[ \t]+[\"'<]+([^\"'>]+)", re.M)


def may_know(area: str) -> set[str]:
    known, todo = {"errors", area}, [area]
    while todo:
        for name in EDGES[todo.pop()]:
            if name not in known:
                known.add(name)
                todo.append(name)
    return known


def imported(name: str, text: str) -> set[str]:
    """Full dotted names that the file `name` (relative to src/pellucid) imports, of any package, at any depth."""
    package = ["pellucid", *name.split("/")[:-1]]
    pairs: list[tuple[int, str, list[str]]] = []
    if name.endswith((".py", ".pyi")):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                pairs += [(0, alias.name, []) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                pairs.append((node.level, node.module or "", [alias.name for alias in node.names]))
    else:
        for source, names, modules in CYTHON_IMPORT.findall(text):
            words = [w.split()[0] for w in (names or modules).replace("(", "").replace(")", "").split(",") if w.strip()]
            level = len(source) - len(source.lstrip("."))
            pairs += [(level, source[level:], words)] if source else [(0, w, []) for w in words]
    found = set()
    for level, module, names_ in pairs:
        base = package[: len(package) - level + 1] if level else []
        full = ".".join([*base, *([module] if module else [])])
        # In `from pellucid.look import x`, x is a module or a name of the package itself; module_of() finds out.
        found |= {f"{full}.{n}" for n in names_} or {full}
    return found


def module_of(target: str, modules: Container[str]) -> str | None:
    """The module of `modules` that a dotted name refers to, or is defined in."""
    while target and target not in modules:
        target = target.rpartition(".")[0]
    return target or None


def python_violations(name: str, text: str) -> list[str]:
    """The imports and declarations of the file `name` (relative to src/pellucid) that are not allowed."""
    area = name.split("/")[0].split(".")[0]
    if area not in EDGES:
        return [f"{name}: {area} has no place in EDGES yet"]
    found = []
    for target in sorted(imported(name, text)):
        if target.split(".")[0] != "pellucid":
            continue
        first = [*target.split("."), "__init__"][1]
        first = first if first in EDGES else "__init__"
        if first not in may_know(area):
            found.append(f"{name}: may not import {target}")
    if not name.endswith(".py"):
        may = BINDINGS.get(area, ())
        for header in EXTERN.findall(text):
            ours = header == "pellucid.h" or "/" in header or (CSRC / header).exists()
            if ours and not any(header == m or (m.endswith("/") and header.startswith(m)) for m in may):
                found.append(f"{name}: may not declare from {header}")
    return found


def test_python_layers() -> None:
    files = sorted(p for p in PYTHON.rglob("*") if p.suffix in (".py", ".pyx", ".pxd", ".pxi"))
    assert [v for p in files for v in python_violations(p.relative_to(PYTHON).as_posix(), p.read_text())] == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("text/bpe.py", "from pellucid.weights import gguf"),
        ("text/bpe.py", "def f():\n    from ..weights.gguf import read"),
        ("text/bpe.py", "from pellucid import Model"),
        ("text/bpe.py", "if TYPE_CHECKING:\n    from pellucid.core import Core"),
        ("weights/gguf.py", "from ..text import bpe"),
        ("weights/gguf.py", "from .. import model"),
        ("arch/llama.py", "import pellucid.model"),
        ("plan.py", "from . import info"),
        ("generation.py", "from .model import Model"),
        ("core.py", "from pellucid.generation import Job"),
        ("errors.py", "from . import plan"),
        ("context.py", "if TYPE_CHECKING:\n    from . import plan\nelse:\n    from .model import Model"),
        ("context.py", "if TYPE_CHECKING:\n    from pellucid.model import Model\nfrom pellucid import _engine"),
        ("look/edit.py", "def f():\n    from pellucid.model import Model"),
        ("text/spm.py", "def f():\n    try:\n        from .. import tokenizer\n    except ImportError:\n        pass"),
        ("model.py", "from .cli import main"),
        ("generation.py", "def f():\n    from .look.trace import trace"),
        ("look/trace.py", "from ..cli import main"),
        ("surprise.py", ""),
        ("_engine.pyx", "from pellucid.model import Model"),
        ("_engine.pyx", "cimport pellucid._parsers"),
        ("_engine.pyx", 'cdef extern from "kernels/kernels.h" nogil:'),
        ("_parsers.pyx", 'cdef extern from "pellucid.h":'),
        ("_kernels/machine.pyx", 'cdef extern from "ops/ops.h":'),
        ("text/_parsers.pyx", "from ..weights cimport x"),
    ],
)
def test_python_checker_objects(name: str, text: str) -> None:
    assert len(python_violations(name, text)) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cli/pull.py", "from ..weights import catalog\nfrom pellucid import Model\nimport typer"),
        ("model.py", "from . import _engine, errors\nfrom .arch import load\nfrom .text.bpe import Bpe"),
        ("model.py", "class Model:\n    def trace(self):\n        from .look.trace import trace"),
        ("__init__.py", "from .model import Model\nfrom .errors import PellucidError"),
        ("context.py", "if TYPE_CHECKING:\n    from pellucid.core import Core\nfrom pellucid import _engine"),
        ("text/bpe.py", "from . import stream\nfrom .stream import Safe\nfrom ..errors import TokenizerError"),
        ("_engine.pyx", 'cdef extern from "pellucid.h" nogil:\nfrom libc.stdint cimport int32_t\nimport numpy as np'),
        ("_kernels/machine.pyx", 'cdef extern from "cpu/detect.h":\ncdef extern from "<string.h>":'),
        ("_kernels/a.pyx", "from pellucid._kernels.machine cimport x, y"),
    ],
)
def test_python_checker_accepts(name: str, text: str) -> None:
    assert python_violations(name, text) == []


# ---- no circle -------------------------------------------------------------------------------------------
def circle(graph: dict[str, set[str]]) -> list[str]:
    """The names of a cycle, in order; empty where there is none."""
    done: set[str] = set()

    def follow(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        found = next((c for n in sorted(graph[name]) if (c := follow(n, [*path, name]))), [])
        done.add(name)
        return found

    return next((c for name in sorted(graph) if (c := follow(name, []))), [])


def test_no_circle() -> None:
    """There is no import cycle in the package, including imports in functions and for types."""
    found = (p for p in PYTHON.rglob("*") if p.suffix in (".py", ".pyx"))
    files = {p.relative_to(PYTHON).as_posix(): p.read_text() for p in found}
    stems = {name: name.rpartition(".")[0].replace("/", ".") for name in files}
    names = {f"pellucid.{stem}".removesuffix(".__init__"): name for name, stem in stems.items()}
    graph = {
        module: {m for t in imported(name, files[name]) if (m := module_of(t, names)) is not None and m != module}
        for module, name in names.items()
    }
    assert len(graph) > 60 and graph["pellucid.model"] >= {"pellucid.core", "pellucid.look.trace"}
    assert circle(graph) == []


def test_circles_are_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


# ---- private names ---------------------------------------------------------------------------------------
NAMED_TUPLE = {"_asdict", "_fields", "_make", "_replace"}  # public, in spite of their names


def private_uses(text: str) -> list[str]:
    """Uses of another module's private names: `x._name` where the module itself defines no such name, and
    `from x import _name`. Modules of the package whose names begin with "_" are allowed."""
    tree = ast.parse(text)
    own = {*NAMED_TUPLE, "_exit"}  # os._exit is documented
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                own.add(node.attr)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                found.append(f"{node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names if is_private(alias.name)]
            found += [f"{node.lineno}: {name}" for name in names if name not in PRIVATE_MODULES]
    return found


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


PRIVATE_MODULES = {p.name.split(".")[0] for p in PYTHON.iterdir() if is_private(p.name)}


def test_no_private_name_is_used_elsewhere() -> None:
    files = sorted(PYTHON.rglob("*.py"))
    assert files
    found = {p.relative_to(PYTHON).as_posix(): private_uses(p.read_text()) for p in files}
    assert {name: uses for name, uses in found.items() if uses} == {}


def test_private_uses_are_found() -> None:
    assert private_uses("model._config") == ["1: model._config"]
    assert private_uses("from a import _b\nfrom pellucid import _engine") == ["1: _b"]
    assert private_uses("import sys\nsys._getframe(0)") == ["2: sys._getframe"]
    assert private_uses("import os\nos._exit(0)") == []
    assert private_uses("class A:\n    def f(self, o):\n        self._x = o._x\n        return t._asdict()") == []


# ---- size and weight -------------------------------------------------------------------------------------
def test_no_file_is_too_long() -> None:
    ours = {
        "src": (".py", ".pyx", ".pxd", ".pxi"),
        "csrc": (".c", ".h"),
        "tests": (".py", ".c"),
        "benchmarks": (".py",),
    }
    files = [p for folder, kinds in ours.items() for p in (ROOT / folder).rglob("*") if p.suffix in kinds]
    lines = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in files}
    assert lines
    assert {name: n for name, n in lines.items() if n > LONGEST} == {}


def functions(text: str) -> dict[str, int]:
    """First line of each function of a C file -> its lines, from there to the brace that ends it."""
    found, start = {}, None
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if line == "{":  # Linux braces: alone on its line at a function, and only there in the first column
            start = i - 1
            while start and re.match(r"[ \t]", lines[start]):  # parameters that went on
                start -= 1
        elif line == "}" and start is not None:
            found[lines[start]] = i + 1 - start
            start = None
    return found


def test_no_function_is_too_long() -> None:
    files = [p for p in CSRC.rglob("*.[ch]") if p.relative_to(CSRC).parts[0] != "kernels"]
    found = {f"{p.relative_to(CSRC)}: {f}": n for p in files for f, n in functions(p.read_text("utf-8")).items()}
    assert len(found) > 200
    assert {name: n for name, n in found.items() if n > LONGEST_FUNCTION} == {}


def test_functions_are_measured() -> None:
    text = "int f(int a,\n      int b)\n{\n    if (a) {\n    }\n}\n\nstatic void g(void)\n{\n}\n"
    assert functions(text) == {"int f(int a,": 6, "static void g(void)": 3}


def test_import_is_light() -> None:
    """`import pellucid` loads only numpy and the standard library."""
    heavy = ("typer", "rich", "jinja2", "tokenizers", "sentencepiece", "safetensors", "huggingface_hub")
    code = f"import sys, pellucid; print(*[m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
