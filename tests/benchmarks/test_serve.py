"""The comparison of servers: a run with two of them, what a failing one leads to, percentiles, wrong arguments."""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
from pathlib import Path

import pytest

from benchmarks import load, plots, serve, situations

# A peer that takes the options of llama-server and is `pellucid serve`.
PEER = f"""#!{sys.executable}
import os, sys
a = sys.argv[1:]
value = lambda option: a[a.index(option) + 1]
assert "-kvu" in a and int(value("-np")) >= 32 and int(value("-c")) >= 32 * 12
options = ["-m", "model=" + value("-m"), "--port", value("--port")]
os.execv(sys.executable, [sys.executable, "-m", "pellucid", "serve", *options])
"""


def test_two_servers_in_turns(smollm2: Path, tmp_path: Path) -> None:
    peer = tmp_path / "llama-server"
    peer.write_text(PEER)
    peer.chmod(0o755)
    out, page = tmp_path / "out.json", tmp_path / "page.md"
    page.write_text("# Page\n")
    sizes = ["--prompt", "8", "--new", "4", "--each", "1", "--repeat", "1", "--arrivals", "2", "--load", "0.5"]
    peers = ["--peer", f"llama_server={peer}"]
    serve.main(
        [str(smollm2), "--clients", "1", "--clients", "2", *sizes, *peers, "--json", str(out), "--into", str(page)]
    )
    doc = json.loads(out.read_text())
    assert doc["errors"] == {} and doc["arriving"] > 0
    for row, clients in zip(doc["closed"], (1, 2), strict=True):
        assert row["clients"] == clients and row["library"][0] > 0
        for name in ("pellucid", "llama_server"):
            (run,) = row[name]
            assert run["failed"] == 0 and run["rate"] > 0 and 0 < run["first50"] <= run["first99"]
            assert run["requests"] * 4 == pytest.approx(run["rate"])  # as many tokens as asked for
    assert all(doc["poisson"][name][0]["failed"] == 0 for name in ("pellucid", "llama_server"))
    text = page.read_text()
    assert all(row["map"][0] > 0 for row in doc["closed"])
    medians = plots.clients(doc)
    assert medians["rate"]["library"] == [row["library"][0] for row in doc["closed"]]
    assert medians["gap99"]["llama_server"] == [row["llama_server"][0]["gap99"] for row in doc["closed"]]
    assert "| 2 |" in text and "llama-server: tokens/s" in text and "at random" in text
    plots.main(["--serve", str(out), "--out", str(tmp_path)])
    assert "<!-- llama-server, p99 -->" in (tmp_path / "clients.svg").read_text()


@pytest.mark.parametrize(
    "reply, said",
    [
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\nbusy", "503 Service Unavailable: .*busy"),
        (b'HTTP/1.1 200 OK\r\n\r\ndata: {"choices": [{"text": "a"}]}\n\n', r"without \[DONE\]"),
        (b'HTTP/1.1 200 OK\r\n\r\ndata: {"error": {"message": "no"}}\n\n', "'no'"),
        (b"HTTP/1.1 200 OK\r\n\r\ndata: {\n\n", "JSONDecodeError"),
    ],
)
def test_what_is_no_answer_counts_as_failed(reply: bytes, said: str) -> None:
    async def run() -> load.Result:
        async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(reply)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await load.send(load.Plan(port, 10, clients=1, requests=2, prompt=3, new=2, seed=1))

    result = asyncio.run(run())
    for answer in result.answers:
        assert re.search(said, answer.error, re.DOTALL)
    found = serve.figures({"seconds": result.seconds, "cpu": result.cpu, "answers": [vars(a) for a in result.answers]})
    assert (
        found["failed"] == 2
        and found["error"] == result.answers[0].error
        and found["rate"] == 0
        and math.isnan(found["first50"])
    )


def test_percentiles() -> None:
    assert serve.percentile([3.0, 1.0, 2.0, 4.0], 0.5) == 3.0
    assert serve.percentile([3.0, 1.0, 2.0, 4.0], 0.99) == 4.0


def test_a_server_that_ends_is_told() -> None:
    with pytest.raises(RuntimeError, match="pellucid ended with exit code 3"):
        serve.Server("pellucid", [sys.executable, "-c", "raise SystemExit(3)"], serve.free_port())


@pytest.mark.parametrize(
    "wrong",
    [
        ["--peer", "vllm=/bin/sh"],
        ["--peer", "llama_server=/nowhere"],
        ["--clients", "0"],
        ["--load", "1"],
        ["--new", "0"],
    ],
)
def test_wrong_arguments(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        serve.main(["any", *wrong])
    assert wrong[0] in capsys.readouterr().err


def test_situations(smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with few tokens: what there is to tell is there, and the second turn finds the first one."""
    out = tmp_path / "out.json"
    sizes = [
        "--long",
        "200",
        "--streams",
        "2",
        "--queue",
        "3",
        "--prompt",
        "8",
        "--new",
        "48",
        "--repeat",
        "1",
        "--idle",
        "9",
    ]
    situations.main([str(smollm2), *sizes, "--json", str(out)])
    found = {name: servers["pellucid"][0] for name, servers in json.loads(out.read_text())["found"].items()}
    assert found.keys() == {"beside", "turn", "keys", "idle"}
    assert found["beside"]["gap p99 (s)"] >= found["beside"]["gap p50 (s)"] > 0
    assert found["beside"]["beside / alone"] > 0 and found["keys"]["relative to 2 x alone + a pass"] > 0
    assert 0.98 <= found["turn"]["found"] <= 1
    assert found["idle"]["gap p99 beside (s)"] > 0 and found["idle"]["p99 beside / alone"] > 0
    assert "| second / first |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", [["--streams", "0"], ["--new", "8"], ["--max-gap", "0"], ["--peer", "other=/bin/true"], ["--only", "x"]]
)
def test_wrong_arguments_of_situations(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        situations.main(["any", *wrong])
    assert ended.value.code == 2
