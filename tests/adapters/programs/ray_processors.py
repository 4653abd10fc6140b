"""The programs of docs/ray.md with Ray's own processors: a deployment's rows, and a server's, are those of the library.

python ray_processors.py MODEL PAGE URL      URL: of a server with this model
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import ray
from ray import serve

from pellucid import Model
from pellucid.adapters.ray import deployment

path, page, url = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
prompts = [f"The {word} is" for word in ("sky", "sea", "sun", "old house")]
with Model.load(path, kv="f16", threads=1) as model:
    expected = {text: model.generate(text, max_tokens=64, seed=0).text for text in prompts}

ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
serve.start(proxy_location="Disabled")
serve.run(deployment(path, cpus=1).bind())
made: dict[str, Any] = {}
for code in re.findall(r"^```py\n(from ray\.data\.llm .*?)^```$", page.read_text("utf-8"), re.M | re.S):
    exec(code.replace("http://127.0.0.1:8080/v1", url), made)
rows = ray.data.from_items([{"prompt": text} for text in prompts])
for name in ("to_deployment", "to_server"):
    found = made[name](rows).take_all()
    assert {row["prompt"]: row["text"] for row in found} == expected and len(found) == len(prompts), (name, found)
serve.shutdown()
ray.shutdown()
print("fine")
