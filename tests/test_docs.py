"""docs/ is correct: its programs run, its command line is the real one, and it describes every error."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import pkgutil
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml  # gguf needs it

from pellucid import Context, Model, Tokenizer, errors
from pellucid.sampling import SamplingOptions

DOCS = Path(__file__).resolve().parent.parent / "docs"


def text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def programs(name: str) -> list[tuple[str, str]]:
    """(heading, code) of each Python block of a page."""
    found: list[tuple[str, str]] = []
    heading = name
    for title, block in re.findall(r"^#+ ([^\n]*)$|^```python\n(.*?)^```$", text(name), re.M | re.S):
        heading = title or heading
        if block:
            found.append((heading, block))
    assert found
    return found


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(code, id=f"{name}: {title}")
        for name in (
            "index.md",
            "generating.md",
            "sampling.md",
            "structured-output.md",
            "embedding.md",
            "prefix-cache.md",
            "sharing.md",
            "speculation.md",
            "other-packages.md",
            "coming-from.md",
            "page.md",
        )
        for title, code in programs(name)
    ],
)
def test_programs_run(program: str, smollm2: Path, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(program)
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def fenced(path: Path, *languages: str) -> list[str]:
    """The blocks of a page in these languages."""
    found = re.findall(r"^ *```(\w+)\n(.*?)^ *```$", path.read_text(encoding="utf-8"), re.M | re.S)
    return [textwrap.dedent(block) for language, block in found if language in languages]


PAGES = [*sorted(DOCS.glob("*.md")), DOCS.parent / "README.md"]


@pytest.mark.parametrize("page", [page for page in PAGES if fenced(page, "py", "python")], ids=lambda page: page.name)
@pytest.mark.filterwarnings("error::SyntaxWarning")
def test_programs_compile(page: Path) -> None:
    """Those that run elsewhere, or nowhere, too, and the modules of Pellucid that they import exist."""
    for program in fenced(page, "py", "python"):
        compile(program, page.name, "exec")
        for node in ast.walk(ast.parse(program)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                if name is not None and name.partition(".")[0] == "pellucid":
                    assert importlib.util.find_spec(name) is not None, name


def test_files_for_kubernetes() -> None:
    """They parse, and a job's rows are cut into as many shares as it has tasks."""
    found = [yaml.safe_load(block) for page in PAGES for block in fenced(page, "yaml")]
    jobs = [one for one in found if one["kind"] == "Job"]
    assert jobs and all(one["apiVersion"] and one["metadata"]["name"] and one["spec"] for one in found)
    for job in jobs:
        (container,) = job["spec"]["template"]["spec"]["containers"]
        command = container["command"]
        assert command[command.index("--shard") + 1] == f"/{job['spec']['completions']}"


# Modules that the tests do not install, reduced to what the pages take from them.
OTHERS = {
    "torch": "from_numpy = lambda array: array",
    "bertviz": """
def head_view(attention, tokens):
    n = len(tokens)
    assert attention and all(layer.shape[0] == 1 and layer.shape[2:] == (n, n) for layer in attention)
""",
}


def test_program_for_bertviz_runs(smollm2: Path, tmp_path: Path) -> None:
    programs = re.findall(r"^```py\n(.*?)^```$", text("other-packages.md"), re.M | re.S)
    (program,) = [one for one in programs if "head_view(" in one]
    assert any("from pellucid.look.harness import PellucidLM" in one for one in programs)
    for name, code in OTHERS.items():
        (tmp_path / f"{name}.py").write_text(code)
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run([sys.executable, tmp_path / "program.py"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("command_line", DOCS / "command_line.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_command_line_is_the_real_one() -> None:
    """To update the page: python docs/command_line.py."""
    from pellucid.cli.app import COMMANDS

    page = generator().page()
    assert text("command-line.md") == page
    assert re.findall(r"^## pellucid (\w+)$", page, re.M) == list(COMMANDS)
    assert "`--threads N`" in page and "`-m, --model MODEL`" in page


def test_command_line_says_which_defaults_there_are() -> None:
    """Those that --help shows, also where they are 0, 1 or a flag that is on."""
    import typer

    from pellucid.cli.app import make_app

    group: Any = typer.main.get_command(make_app())
    looked_at = 0
    for name, command in group.commands.items():
        context = typer.Context(command)
        part = text("command-line.md").partition(f"\n## pellucid {name}\n")[2].partition("\n## ")[0]
        for param in (one for one in command.params if one.param_type_name == "option"):
            help = (param.get_help_record(context) or ("", ""))[1]
            default = re.search(r"\[default: ([^\];]+)", help)
            if default is not None and "default" not in (param.help or "").lower():
                (row,) = [line for line in part.splitlines() if re.match(rf"\| `(?:[^`]* )?{param.opts[0]}[ ,`]", line)]
                assert re.search(rf"Default: `?(--)?{re.escape(default[1])}`?\. \|$", row), row
                looked_at += 1
    assert looked_at > 100


def sections() -> dict[str, str]:
    parts = re.split(r"^## `(\w+)`$", text("troubleshooting.md").partition("\n## Without")[0], flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_error_has_an_example_a_cause_and_a_cure() -> None:
    assert set(sections()) == set(errors.__all__) - {"ArgumentError"}  # the base of two, never raised itself
    for name, section in sections().items():
        (example,) = re.findall(r"^```text\n(.+?)\n```$", section, re.M | re.S)
        assert example and "**Cause.**" in section and "**Cure.**" in section, name


def test_examples_are_what_is_said(smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples that are quick to produce; of messages that differ between machines, the beginning."""
    model = Model.load(smollm2, context=64)

    def busy() -> None:
        context = model.context()
        stream = context.stream("a")
        next(stream)
        context.append("b")

    def cut() -> None:
        (tmp_path / "model.gguf").write_bytes(smollm2.read_bytes()[:30_000_000])
        Model.load("model.gguf")

    def endless() -> None:
        many = "{% for a in range(3000) %}{% for b in range(3000) %}{% endfor %}{% endfor %}"
        model.chat_prompt([{"role": "user", "content": "Hello"}], template=many)

    def closed() -> None:
        model.close()
        model.generate("a")

    monkeypatch.chdir(tmp_path)
    for call in (
        lambda: model.generate("word " * 100),
        lambda: model.generate("a\ud800"),
        lambda: Model.load("model.gguf"),
        lambda: Model.load("owner/name"),
        lambda: Model.load(smollm2, isa="abacus"),
        busy,
        cut,
        endless,
        closed,
    ):
        with pytest.raises(errors.PellucidError) as caught:
            call()
        said = str(caught.value)
        assert said.partition(": scalar")[0] in sections()[type(caught.value).__name__]


def test_every_page_is_in_the_navigation() -> None:
    settings = (DOCS.parent / "mkdocs.yml").read_text()
    assert {page.name for page in DOCS.glob("*.md")} == set(re.findall(r": ([\w-]+\.md)$", settings, re.M))


# What the API page may show: the members of each class, and the names of each module. Anything else is internal.
SHOWN = {
    "pellucid.Model": "achat aembed agenerate amap arerank ascore_map astream chat chat_prompt clear_cache close "
    "context context_length detokenize drive edit embed generate info load load_cache load_seconds logits map "
    "open_context plan rerank save_cache score score_map stats stream submit tokenize tokenizer trace weight",
    "pellucid.Context": "aappend achat agenerate append astream chat close fork generate ids length logits next rewind "
    "save score stream trace",
    "pellucid.Completion": "message parsed to_dict",
    "pellucid.Stream": "close dropped result text",
    "pellucid.BatchStream": "close result texts",
    "pellucid.AsyncStream": "aclose result text",
    "pellucid.AsyncBatchStream": "aclose result texts",
    "pellucid.SamplingOptions": "replace",
    "pellucid.GenerateOptions": "",
    "pellucid.ChatOptions": "",
    "pellucid.Request": "cancel done prompt_tokens result stats warnings",
    "pellucid.RequestStats": "to_dict",
    "pellucid.Stats": "to_dict",
    "pellucid.Piece": "end finish_reason ids index logprobs prompt_tokens reasoning reasoning_tokens stop_string text "
    "timings tool_calls",
    "pellucid.ToolCall": "arguments id name to_dict",
    "pellucid.ToolCallDelta": "arguments id index name",
    "pellucid.TokenLogprob": "id logprob piece top",
    "pellucid.NextToken": "id logprob piece",
    "pellucid.Ranked": "index score",
    "pellucid.Timings": "decode_rate prefill_rate",
    "pellucid.Trace": "arrays attribution attributions bertviz html kept lens lens_table load logits_at nbytes save "
    "sources to_pandas top",
    "pellucid.look.lens.Guess": "id logit piece probability",
    "pellucid.look.lens.Attribution": "parts total",
    "pellucid.look.attributions.Attributions": "at total",
    "pellucid.look.table.LensTable": "",
    "pellucid.look.experiments": "Occlusion Patching occlusion patching",
    "pellucid.look.paths": "Path path",
    "pellucid.model.Edit": "add close cut model patch patch_head patch_pattern scale scale_expert scale_head "
    "scale_neurons set_neurons skip",
    "pellucid.look.score.Score": "logprobs perplexity to_dict total",
    "pellucid.look.tables": "Look Push Surprise heads looks surprise",
    "pellucid.look.choice": "Drawn Step Steps steps",
    "pellucid.look.draws": "drawn",
    "pellucid.look.pages.Page": "save",
    "pellucid.look.plots": "attention attribution lens patching save",
    "pellucid.functions": "declare run",
    "pellucid.Tokenizer": "chat decode encode encode_pair load piece spans spelling",
    "pellucid.ModelInfo": "to_dict",
    "pellucid.Operation": "to_dict",
    "pellucid.errors": " ".join(sorted(errors.__all__)),
    "pellucid.weights.catalog": "Entry cache_folder entries fetch find is_cached path",
}


def blocks_of_api() -> dict[str, dict[str, Any]]:
    """What api.md shows -> the options of each."""
    page = re.sub(r"(?<=[:,])\n +(?=[\[\w])(?![\w]+:)", " ", text("api.md"))  # lists over several lines
    found = re.findall(r"^::: (\S+)\n((?: +.*\n)*)", page, re.M)
    return {
        name: {
            key: ast.literal_eval(re.sub(r"\b(\w+)\b(?=[,\]])", r"'\1'", value) if key.endswith("members") else value)
            for key, value in re.findall(r"^ +(\w+): (\[.+)$", options, re.M)
        }
        | {key: value == "true" for key, value in re.findall(r"^ +(\w+): (true|false)$", options, re.M)}
        for name, options in found
    }


def shown(name: str, options: dict[str, Any]) -> set[str]:
    """The names that mkdocstrings shows of a class or module: the documented ones that pass its filters."""
    thing = pkgutil.resolve_name(name.rpartition(".")[0] + ":" + name.rpartition(".")[2] if name[9].isupper() else name)
    own = dict(vars(thing))
    inherited = options.get("inherited_members", ())
    if inherited is True:
        inherited = {key for parent in thing.__mro__[1:-1] for key in vars(parent)}
    own |= {key: inspect.getattr_static(thing, key) for key in inherited}
    filters = [pattern.removeprefix("!") for pattern in options.get("filters", ["!^_"])]

    def is_shown(key: str, value: Any) -> bool:
        if any(re.search(pattern, key) for pattern in filters) or inspect.ismodule(value):
            return False
        if inspect.ismodule(thing) and getattr(value, "__module__", None) != thing.__name__:
            return key in options.get("members", ())  # imported from elsewhere
        if key in getattr(thing, "_fields", ()):
            return bool(options.get("show_if_no_docstring"))
        return (callable(value) or isinstance(value, (property, classmethod))) and bool(value.__doc__)

    members = options.get("members")
    return {key for key, value in own.items() if is_shown(key, value) and (not members or key in members)}


def test_api_page_shows_what_is_public() -> None:
    assert {name: " ".join(sorted(shown(name, options))) for name, options in blocks_of_api().items()} == SHOWN
    assert set(SHOWN) == set(blocks_of_api())


def test_api_page_shows_no_constructor_that_is_internal() -> None:
    """Only those of plain data, whose parameters are its attributes."""
    settings = (DOCS.parent / "mkdocs.yml").read_text()
    assert "merge_init_into_class: false" in settings and "show_bases: false" in settings
    for name, options in blocks_of_api().items():
        if options.get("merge_init_into_class"):
            module, _, attribute = name.rpartition(".")
            assert dataclasses.is_dataclass(getattr(importlib.import_module(module), attribute)), name


def test_every_option_is_described() -> None:
    described = SamplingOptions.__doc__ or ""
    options = [field.name for field in dataclasses.fields(SamplingOptions) if field.init]
    assert [name for name in options if not re.search(rf"\b{name}\b", described)] == []


def test_calls_that_others_become_exist() -> None:
    """Each method and option in the right column of the tables of coming-from.md is one of ours."""
    page = text("coming-from.md")
    ours = " ".join(re.findall(r"^\| .* (\| [^|]+ \|)$", page, re.M))
    code = " ".join(re.findall(r"`([^`]+)`", ours))
    owners = {"model": Model, "Model": Model, "context": Context, "model.tokenizer": Tokenizer}
    calls = re.findall(r"\b(model\.tokenizer|[mM]odel|context)\.([a-z_]+)\b", code)
    assert len(calls) > 40
    assert [call for call in calls if call[1] != "gguf" and not hasattr(owners[call[0]], call[1])] == []
    known = {field.name for field in dataclasses.fields(SamplingOptions)} | {
        "template",
        "tools",
        "tool_choice",
        "stream",
        "model",
        "n",
        "options",
    }
    known |= set(inspect.signature(Model.load).parameters)
    assert set(re.findall(r"\b([a-z_]+)=", code)) <= known
