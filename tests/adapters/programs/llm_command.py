"""What users of the command `llm` do: add a model, ask, chat, embed, schemas, tools, Ctrl-C."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

LLM = [sys.executable, "-m", "llm"]
path, base, embedder = sys.argv[1:]
PLAIN = ["-m", "pellucid/ours", "-o", "temperature", "0", "-o", "max_tokens", "8"]


def llm(*arguments: str, stdin: str = "") -> str:
    done = subprocess.run([*LLM, *arguments], input=stdin, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


assert "pellucid/smollm2-135m" in llm("models"), "the catalogue's"
llm("pellucid", "add", "ours", path)
llm("pellucid", "add", "base", base)
llm("pellucid", "add", "embedder", embedder)
llm("pellucid", "add", "gone", path)
llm("pellucid", "remove", "gone")
llm("pellucid", "add", "named", "gemma3-270m")  # the catalogue's; nothing is downloaded
llm("pellucid", "remove", "named")
for alias, model, says in (
    ("", path, "without spaces"),
    ("a b", path, "without spaces"),
    ("x", path + ".no", "not"),
    ("x", __file__, "no model"),
    ("x", "smollm3", "neither a file nor the name of a model"),
):
    done = subprocess.run([*LLM, "pellucid", "add", alias, model], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
names = llm("models")
assert "pellucid/ours" in names and "pellucid/gone" not in names
assert "pellucid/embedder" in llm("embed-models")

# ---- the file of what was added: a write that is cut short leaves it as it was, and a damaged one is not the end
file = Path(os.environ["LLM_USER_PATH"]) / "pellucid-models.json"
whole = file.read_bytes()
for command in (["add", "late", path], ["remove", "ours"]):
    done = subprocess.run(
        [*LLM, "pellucid", *command], capture_output=True, text=True, timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9)),
    )  # fmt: skip
    assert done.returncode == 1 and "pellucid-models.json" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and file.read_bytes() == whole and os.listdir(file.parent).count(file.name)
for damaged in (whole[:40], b'{"a": {"model": 5}}'):
    file.write_bytes(damaged)
    listed = subprocess.run([*LLM, "models"], capture_output=True, text=True, timeout=300)
    assert listed.returncode == 0 and "gpt-4" in listed.stdout and "pellucid/smollm2-135m" in listed.stdout
    assert listed.stderr.count(str(file)) == 1 and "delete it" in listed.stderr, listed.stderr
    for command in (["add", "late", path], ["remove", "ours"]):
        done = subprocess.run([*LLM, "pellucid", *command], capture_output=True, text=True, timeout=300)
        assert done.returncode == 1 and f"Error: {file}: " in done.stderr and "delete it" in done.stderr, done.stderr
    assert file.read_bytes() == damaged
file.write_bytes(whole)

answer = llm(*PLAIN, "Name a colour.").strip()
talk = llm("chat", *PLAIN, stdin="Name a colour.\nAnd another?\nexit\n")
assert answer in talk and talk.count("\n> ") == 3, talk
assert answer == llm(*PLAIN, "--no-stream", "Name a colour.").strip()
assert isinstance(json.loads(llm(*PLAIN, "-o", "max_tokens", "40", "--schema", "warm bool", "Red?"))["warm"], bool)
noon = 'def noon() -> str:\n    "When noon is"\n    return "12:00"'
llm(*PLAIN, "--functions", noon, "When is noon?")
assert len(json.loads(llm("embed", "-m", "pellucid/embedder", "-c", "Owls hunt."))) > 1
print(answer)

# ---- errors are one line, in chats and embeddings as in prompts
llm("pellucid", "add", "mean", path, "--pooling", "mean")
assert len(json.loads(llm("embed", "-m", "pellucid/mean", "-c", "Owls hunt."))) > 1
PROMPT, EMBED, long = [*PLAIN, "Hi"], ["embed", "-m", "pellucid/mean", "-c"], "word " * 9000
for command, stdin, said in (
    (["embed", "-m", "pellucid/ours", "-c", "Hi"], "", "say it with llm pellucid add ALIAS MODEL --pooling last|first"),
    ([*EMBED, long], "", "too long"),
    ([*PROMPT, "-o", "top_p", "7"], "", "top_p=7.0: expected"),
    (["--async", *PROMPT, "-o", "top_p", "7"], "", "top_p=7.0: expected"),
    (["chat", *PLAIN, "-o", "top_p", "7"], "Hi\n", "top_p=7.0: expected"),
    (["chat", *PLAIN], long + "\n", "too long"),
):
    done = subprocess.run([*LLM, *command], input=stdin, capture_output=True, text=True, timeout=300)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and len(lines) == 1 and said in lines[0], done.stderr

# ---- Ctrl-C: once text comes
endless = ["-m", "pellucid/ours", "-o", "max_tokens", "4000", "-o", "temperature", "2"]
with subprocess.Popen([*LLM, *endless, "Count."], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
    assert running.stdout is not None and running.stdout.read(1)
    running.send_signal(signal.SIGINT)
    began = time.monotonic()
    running.communicate(timeout=60)
    assert running.returncode != 0 and time.monotonic() - began < 30
print("fine")
