"""Makes golden_chat.json: what transformers renders of each conversation with each template.

    python tests/text/make_chat_golden.py

needs transformers (extra `reference`), and no project.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from conversations import CASES, expected, templates  # type: ignore[import-not-found]


def main() -> None:
    rows = []
    for name, source in templates().items():
        found = {case: expected(source, given) for case, given in CASES.items()}
        rows.append(f"  {json.dumps(name)}: {json.dumps(found, ensure_ascii=False)}")
        print(name, *(next(iter(result))[0] for result in found.values()))
    target = Path(__file__).with_name("golden_chat.json")
    target.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
    print(target.name, target.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
