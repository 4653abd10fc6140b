"""Continues the lines of a text file on a Ray cluster: python examples/ray_lines.py lines.txt folder

Every line has its own seed, so the texts are the same however many machines there are. The job may be stopped, and
started again with --resume: what is written already is left out. Needs the extra ray.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ray
from ray.data.checkpoint import CheckpointConfig

from pellucid.adapters.ray import generate


def main() -> None:
    parser = argparse.ArgumentParser(description="Continues the lines of a text file on a Ray cluster.")
    parser.add_argument("input", type=Path, help="a file of lines, each different")
    parser.add_argument("output", type=Path, help="folder for files of JSON lines")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--cpus", type=int, help="logical CPUs of a Ray that is started here; default: of the machine")
    parser.add_argument("--resume", type=Path, help="folder that remembers which lines are done")
    arguments = parser.parse_args()

    ray.init(num_cpus=arguments.cpus)
    if arguments.resume is not None:
        remembered = CheckpointConfig(id_column="prompt", checkpoint_path=str(arguments.resume.absolute()))
        ray.data.DataContext.get_current().checkpoint_config = remembered
    lines = ray.data.read_text(str(arguments.input.absolute())).rename_columns({"text": "prompt"})
    done = generate(lines, arguments.model, id="prompt", max_tokens=arguments.max_tokens)
    done.write_json(str(arguments.output.absolute()))


if __name__ == "__main__":
    main()
