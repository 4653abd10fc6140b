"""How fast a page opens and responds to clicks in Debian's Chromium.

    python benchmarks/page.py [--tokens 60 512 2048] [--html-size MB] [--clicks 50] [--model smollm2-135m]

For each number of tokens, a page of LICENSE is written and opened in a window in which all views are visible. Prints:

first view   from the start of loading to the frame with the text's tokens
all read     until every block except the layers' weights has been decoded in the background, and all views are drawn
opening      the longest time between two frames from the first view until then
decoding     the longest one while all of that, and the weights of all layers, are decoded in a window of 200 pixels,
             which shows the text alone
a token ...  from the click, or the slider's move, to the end of the frame that shows it: the median, and the 90th
             percentile, of --clicks. "New layer" waits for the map of a layer whose weights were not yet decoded
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.arguments import count
from pellucid import Model
from pellucid.look import pages
from pellucid.processor import processor
from tests.page import browsers

ROOT = Path(__file__).resolve().parent.parent
VIEW = {"width": 1400, "height": 3000}
TEXT_ALONE = {"width": 1400, "height": 200}
WATCH = """() => {
    const times = globalThis.times = { first: 0, read: 0, longest: 0 };
    let before = 0;
    const frame = (now) => {
        const data = document.querySelector('pellucid-page')?.pair?.data;
        if (times.first && !times.read) times.longest = Math.max(times.longest, now - before);
        if (!times.first && document.querySelector('pellucid-strip .token')) times.first = performance.now();
        if (times.first && !times.read && Object.keys(data.meta.blocks).every((name) => /^att-\\d/.test(name)
            || data.kept.get(name)) && [...document.querySelectorAll('pellucid-views section > *')].every((view) =>
            !view.seen || view.drew === view.key())) times.read = performance.now();
        before = now;
        requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
}"""
# A frame is over when a message sent by its own callback arrives: after style, layout and paint.
CLICKS = """async ([kind, count]) => {
    const { data, state } = document.querySelector('pellucid-page').pair;
    const frame = () => new Promise((done) => requestAnimationFrame(() => {
        const channel = new MessageChannel();
        channel.port1.onmessage = done;
        channel.port2.postMessage(0);
    }));
    const layers = () => document.querySelectorAll('table.tower tbody th button');
    const act = {
        token: (i) => document.querySelector(`#token-${(i * 37 + 5) % data.n}`).click(),
        layer: (i) => layers()[i % 2].click(),
        'new layer': (i) => layers()[2 + i].click(),
        head: (i) => document.querySelectorAll('table.tower button.cell')[i % data.heads].click(),
        slider: (i) => {
            const slider = document.querySelector('pellucid-next label.slider input[type=range]');
            slider.value = String(0.3 + 0.02 * (i % 50));
            slider.dispatchEvent(new Event('input', { bubbles: true }));
        },
    }[kind];
    const shows = () => !data.hasMap(state.now.layer) || data.kept.get(data.map(state.now.layer, state.now.head));
    const found = [];
    for (let i = 0; i < (kind === 'new layer' ? Math.min(count, layers().length - 2) : count); i++) {
        await new Promise((done) => setTimeout(done, 20 + (i * 7) % 16));  // anywhere between two frames
        const start = performance.now();
        act(i);
        do await frame(); while (!shows());
        found.push(performance.now() - start);
    }
    return found;
}"""
DECODING = """async () => {
    const { data } = document.querySelector('pellucid-page').pair;
    let [longest, before, going] = [0, performance.now(), true];
    const frame = (now) => {
        longest = Math.max(longest, now - before);
        before = now;
        if (going) requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
    for (let layer = 0; layer < data.layers; layer++) if (data.hasMap(layer)) await data.read(data.map(layer, 0));
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    going = false;
    return longest;
}"""
KINDS = ("token", "layer", "new layer", "head", "slider")


def opened(browser: Any, path: Path, view: dict[str, int]) -> Any:
    tab = browser.new_context(offline=True, viewport=view).new_page()
    tab.set_default_timeout(120_000)
    tab.add_init_script(f"({WATCH})()")
    tab.goto(f"file://{path}")
    tab.wait_for_function("() => times.read > 0")
    return tab


def measured(browser: Any, path: Path, clicks: int) -> dict[str, Any]:
    tab = opened(browser, path, TEXT_ALONE)
    decoding = max(tab.evaluate("times.longest"), tab.evaluate(DECODING))
    tab.context.close()
    tab = opened(browser, path, VIEW)
    found = {**tab.evaluate("times"), "decoding": decoding}
    tab.wait_for_selector("table.tower tbody tr")
    for kind in ("layer", *KINDS):  # the first time also reads the weights of two layers
        found[kind] = tab.evaluate(CLICKS, [kind, clicks])
    tab.context.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=count, nargs="+", default=[60, 512, 2048])
    parser.add_argument("--html-size", type=float, default=pages.MEGABYTES)
    parser.add_argument("--clicks", type=count, default=50)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--folder", type=Path, help="keeps the pages here, and opens those that already exist")
    given = parser.parse_args()
    if given.clicks < 2:
        parser.error(f"--clicks {given.clicks}: expected 2 or more, for percentiles")
    with tempfile.TemporaryDirectory() as made, browsers.chromium() as browser:
        folder = given.folder or Path(made)
        paths = {n: folder / f"{n}.html" for n in given.tokens}
        if not all(path.exists() for path in paths.values()):
            folder.mkdir(exist_ok=True, parents=True)
            with Model.load(given.model) as model:
                ids = model.tokenize((ROOT / "LICENSE").read_text())
                for n, path in paths.items():
                    if n > len(ids):
                        parser.error(f"--tokens {n}: LICENSE has {len(ids)}")
                    pages.page(model.core, ids[:n], megabytes=given.html_size).save(path)
        print(f"{processor()}, Chromium {browser.version}, {date.today()}; milliseconds\n")
        print(f"| tokens | MB | first view | all read | opening | decoding | {' | '.join(KINDS)} |")
        print("|---" * (6 + len(KINDS)) + "|")
        for n, path in paths.items():
            found = measured(browser, path, given.clicks)
            times = [f"{found[name]:.0f}" for name in ("first", "read", "longest", "decoding")]
            for kind in KINDS:
                low = statistics.median(found[kind])
                times.append(f"{low:.0f}, {statistics.quantiles(found[kind], n=10)[-1]:.0f}")
            print(f"| {n:,} | {path.stat().st_size / 1e6:.1f} | {' | '.join(times)} |", flush=True)


if __name__ == "__main__":
    main()
