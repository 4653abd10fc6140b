"""docs/server.md: its requests are sent, and what stands beside it is used."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer

from pellucid import Model
from pellucid.cli.app import make_app as make_commands
from pellucid.server.app import make_app
from pellucid.server.gate import Gate
from pellucid.server.service import Service
from pellucid.server.settings import Settings
from tests.embedding.cases import BY_NAME
from tests.embedding.files import load_golden, write_folder
from tests.server.client import call
from tests.server.test_end import served

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "server.md").read_text(encoding="utf-8")
PAIRS = re.findall(r"^```sh\n(curl .*?)^```\n\n```json\n(.*?)^```$", PAGE, re.M | re.S)
FILES = DOCS / "server"


def shape(value: Any) -> Any:
    """Keys and types; texts and numbers may differ between processors, words of the interface may not."""
    if isinstance(value, dict):
        same = (
            "object",
            "type",
            "param",
            "code",
            "role",
            "finish_reason",
            "id",
            "status",
            "tokens",
            "prompt",
            "content",
        )
        known = {k: v for k, v in value.items() if k in same and isinstance(v, str) and k != "content"}
        known.pop("id", None)
        tops = len(value) == 1 and not known and all(isinstance(v, float) for v in value.values())
        return "top" if tops else {k: known.get(k, shape(v)) for k, v in value.items()}
    if isinstance(value, list):  # of bytes or ids there may be more or fewer
        return "numbers" if value and all(isinstance(v, int) for v in value) else [shape(item) for item in value]
    return type(value).__name__


@pytest.fixture(scope="module")
def default(smollm2: Path) -> Any:
    with Model.load(smollm2, threads=2) as loaded:
        service = Service(Settings(names=("smollm2-135m",)), loaded)
        yield make_app(service)
        service.close()


def test_all_endpoints_have_a_request() -> None:
    assert len(PAIRS) == PAGE.count("\ncurl ") == PAGE.count("```json") >= 9


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Any:
    case = BY_NAME["modernbert_reranker"]
    folder = write_folder(case, load_golden(case), tmp_path_factory.mktemp("m") / "reranker")
    with Model.load(folder, threads=2) as loaded:
        service = Service(Settings(names=("reranker",)), loaded)
        yield make_app(service)
        service.close()


@pytest.mark.parametrize(("command", "answer"), PAIRS, ids=lambda text: text.split("/", 3)[-1][:20])
def test_requests(default: Gate, reranker: Gate, command: str, answer: str) -> None:
    words = shlex.split(command)
    method, body = ("POST", words[words.index("-d") + 1].encode()) if "-d" in words else ("GET", None)
    path = words[1].removeprefix("http://127.0.0.1:8080")
    assert words[1].startswith("http://127.0.0.1:8080/")
    found = call(reranker if "rerank" in path else default, method, path, body).json
    assert shape(found) == shape(json.loads(answer))
    if "tokenize" in path or "template" in path:
        assert found == json.loads(answer)


def options() -> set[str]:
    command = typer.main.get_command(make_commands()).commands["serve"]  # type: ignore[attr-defined]
    return {name for parameter in command.params for name in parameter.opts}


def test_options_exist() -> None:
    assert set(re.findall(r"`(--[a-z-]+)", PAGE)) - {"--model"} <= options()


def test_metrics_are_those_that_are_shown(app: Gate) -> None:
    assert call(app, "POST", "/v1/completions", {"prompt": "a", "max_tokens": 2}).status == 200
    call(app, "POST", "/v1/completions", {})
    call(app, "GET", "/nothing")
    text = call(app, "GET", "/metrics").body.decode()
    there = set(re.findall(r"^# TYPE pellucid_(\w+) ", text, re.M))
    table = PAGE[PAGE.index("## Metrics") : PAGE.index("## The app")]
    assert set(re.findall(r"`([a-z0-9_]+_[a-z0-9_]+)`", table)) - {"pellucid_", "finish_reason"} == there
    dashboard = json.loads((FILES / "grafana.json").read_text())
    used = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            used |= set(re.findall(r"pellucid_(\w+?)(?:_bucket)?\{", target["expr"]))
            assert target["expr"].count("(") == target["expr"].count(")")
    assert used and used <= there
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)


def test_the_unit() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(FILES / "pellucid.service")
    program, command, *words = unit["Service"]["ExecStart"].split()
    assert program.endswith("/bin/pellucid") and command == "serve"
    assert {word for word in words if word.startswith("--")} <= options()
    assert int(unit["Service"]["TimeoutStopSec"]) > Settings().grace + 2
    assert unit["Service"]["DynamicUser"] == "yes"


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in (FILES / "Containerfile").read_text().split("\n") if line and line[0] != "#"]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def test_the_image_is_built_as_it_should() -> None:
    steps = instructions()
    words = [word for word, _ in steps]
    assert words[:2] == ["ARG", "FROM"] and steps[1][1] == "$BASE"
    assert re.fullmatch(r"BASE=[\w./]+:[\w.-]+", steps[0][1]) and ":latest" not in steps[0][1]
    assert words[-1] == "ENTRYPOINT" and words.count("HEALTHCHECK") == 1 and "ADD" not in words
    (user,) = (value for word, value in steps if word == "USER")
    (volume,) = (value for word, value in steps if word == "VOLUME")
    owned = f"install -d -o {user} -g {user} {volume}"  # a volume is root's where the image has no such folder
    assert int(user) > 0 and steps[2][1] == f"useradd --create-home --uid {user} pellucid && {owned}"
    assert max(i for i, word in enumerate(words) if word == "RUN") < words.index("USER")
    (install,) = (value for word, value in steps if word == "RUN" and "pip install" in value)
    assert "--no-cache-dir" in install and "[server]" in install
    assert json.loads(dict(steps)["ENTRYPOINT"])[:2] == ["pellucid", "serve"]


def test_a_releases_image_names_its_base_by_digest() -> None:
    base = dict(instructions())["ARG"].removeprefix("BASE=")
    workflow = (DOCS.parent / ".github/workflows/wheels.yml").read_text()
    assert f"docker buildx imagetools inspect {base} --format" in workflow
    assert f"build-args: BASE={base.rpartition(':')[0]}@${{{{ steps.base.outputs.digest }}}}\n" in workflow


def test_the_images_steps_run(smollm2: Path, tmp_path: Path) -> None:
    """What installs is tested with the wheel; here the install line's shell, the start and the health check run."""
    steps = dict(instructions())
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "pellucid-0.1.0-cp311-abi3-manylinux_2_28_x86_64.whl").touch()
    install = next(v for w, v in instructions() if w == "RUN" and "pip install" in v)
    script = "pip() { printf '%s\\n' \"$@\"; }; " + install.replace("/tmp/wheels", str(wheels))
    done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{wheels}/pellucid-0.1.0-cp311-abi3-manylinux_2_28_x86_64.whl[server]"
    assert not wheels.exists()
    arguments = json.loads(steps["ENTRYPOINT"])[2:]
    refused = subprocess.run([sys.executable, "-m", "pellucid", "serve", *arguments], capture_output=True, timeout=60)
    assert refused.returncode == 2 and b"PELLUCID_API_KEY" in refused.stderr
    check = json.loads(steps["HEALTHCHECK"].partition(" CMD ")[2])
    with served(smollm2, *arguments, PELLUCID_API_KEY="sk-x") as (_, port, line):
        assert f":{port}/v1" in line
        command = [sys.executable if word == "python" else word.replace("8080", str(port)) for word in check]
        for _ in range(20):
            if subprocess.run(command, capture_output=True, timeout=30).returncode == 0:
                break
            time.sleep(0.1)
        else:
            raise AssertionError("the health check fails")
    assert subprocess.run(command, capture_output=True, timeout=30, env=os.environ).returncode != 0


def test_the_predictor_for_kserve_fits_the_image_and_the_server(default: Gate) -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)
    (arguments,) = re.findall(r" args: \[(.*)\]", text)
    steps = dict(instructions())
    command = typer.main.get_command(make_commands()).commands["serve"]  # type: ignore[attr-defined]
    words = [*json.loads(steps["ENTRYPOINT"])[2:], *arguments.split(", ")]
    with command.make_context("serve", words) as given:  # wrong options are errors
        assert given.params["model"] == ["llama=/models/llama.gguf"] and given.params["host"] == "0.0.0.0"
        port = str(given.params["port"])
    assert re.findall(r"httpGet: {path: /health, port: (\d+)}", text) == [port] == [steps["EXPOSE"]]
    assert re.findall(r"containerPort: (\d+)", text) == [port]
    assert call(default, "GET", "/health").status == 200
