"""The frames per second that the app draws in a conversation of 1,000 messages of 500 tokens, while an answer streams
and the reader types, in Debian's Chromium.

    python benchmarks/app.py [--repeat 5]

Prints for each run: the fewest frames in a second, and the median of all seconds. The maximum is 60.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.arguments import count
from pellucid.processor import processor
from tests.page import browsers, long
from tests.page.test_app import opened, start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=count, default=5)
    given = parser.parse_args()
    process, address = start()
    try:
        with tempfile.TemporaryDirectory() as folder, browsers.chromium() as browser:
            path = Path(folder) / "long.json"
            long.write(path)
            print(f"{processor()}, Chromium {browser.version}, {date.today()}")
            for _ in range(given.repeat):
                context = browser.new_context(viewport={"width": 1300, "height": 900})
                found = long.frames(opened(context, address), path)
                print(f"fewest {min(found)}, median {statistics.median(found):g}", flush=True)
                context.close()
    finally:
        process.terminate()
        process.wait(30)


if __name__ == "__main__":
    main()
