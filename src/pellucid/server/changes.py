"""Applies a list of changes to a model, in JSON, and writes the Python program that makes the same changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from pellucid import checks
from pellucid.errors import PellucidError, WrongType, WrongValue
from pellucid.look.edit import Edits
from pellucid.model import Model
from pellucid.weights import inventory

__all__ = ["MOST_CHANGES", "Changes"]

MOST_CHANGES = 64
MOST_TEXT_TOKENS = 4096  # of all texts of a list


class Changes:
    """A parsed list of changes to a model. edits: what it does to the model. python: the program that does the same."""

    def __init__(self, model: Model, name: str, given: Any) -> None:
        """name: what the server calls the model. Raises ValueError or TypeError naming the place in the list."""
        if not isinstance(given, list):
            raise WrongType("list", ": expected a list of changes")
        if len(given) > MOST_CHANGES:
            raise WrongValue("list", f" has {len(given)} entries: expected at most {MOST_CHANGES}")
        info = model.info()
        self.edits = Edits(model.core)
        self._model = model
        self._tokens = 0
        source, comment = (name, "") if _loads(name, info.path) else ("MODEL", f"  # what the server has as {name!r}")
        load = f'model = Model.load({source!r}, precision="{info.precision}", kv="{info.kv}"){comment}'
        self._lines = ["from pellucid import Model", "", load, "edit = model.edit()"]
        for i, one in enumerate(given):
            _Change(self, f"list[{i}]", one).apply()

    @property
    def python(self) -> str:
        return "\n".join(self._lines) + "\n"

    def write(self, line: str) -> None:
        self._lines.append(line)

    def stream(self, place: str, text: str, layer: Any, position: int | None) -> Any:
        """The residual stream (d) of another text after a layer, or of its embeddings. position: of a token; None: the
        last one."""
        ids = self._model.core.prompt_ids(text, place)
        if len(ids) > self._model.context_length:
            raise WrongValue(place, f" has {len(ids)} tokens: the model reads at most {self._model.context_length}")
        self._tokens += len(ids)
        if self._tokens > MOST_TEXT_TOKENS:
            raise WrongValue(place, f": all texts have more than {MOST_TEXT_TOKENS} tokens")
        if position is not None and position >= len(ids):
            raise WrongValue(place, f" has {len(ids)} tokens: expected more than {position}")
        row = 0 if layer == "embeddings" else layer + 1
        return self._model.trace(text, want="hidden", positions=-1 if position is None else position).hidden[row, 0]


def _loads(name: str, path: str) -> bool:
    """Whether a model's name loads it anywhere: a catalogue's or a hub's name, not one that the operator gave."""
    try:
        return os.path.samefile(inventory.find(name).path, path)
    except (PellucidError, OSError, ValueError):
        return False


class _Change:
    """One entry. Its fields are checked; what is left over is refused."""

    def __init__(self, all: Changes, place: str, given: Any) -> None:
        if not isinstance(given, dict):
            raise WrongType("list", f"{place.removeprefix('list')}: expected an object")
        self._all, self._place, self._rest = all, place, {k: v for k, v in given.items() if v is not None}
        kinds = {"head": self._head, "skip": self._skip, "direction": self._direction, "patch": self._patch}
        kind = self._named(lambda name: checks.choice(name, self._rest.pop("kind", None), kinds), "kind")
        self._apply: Callable[[], None] = kinds[kind]

    def apply(self) -> None:
        self._apply()

    def _end(self) -> None:
        if self._rest:
            raise WrongValue(f"{self._place}.{min(self._rest)}", ": unknown field")

    def _named(self, check: Callable[[str], Any], name: str) -> Any:
        return check(f"{self._place}.{name}")

    def _integer(self, name: str, low: int, high: float) -> int:
        return checks.integer(f"{self._place}.{name}", self._rest.pop(name, None), low, high)

    def _number(self, name: str, low: float, high: float) -> float:
        return checks.number(f"{self._place}.{name}", self._rest.pop(name, None), low, high)

    def _text(self, name: str) -> str:
        text = checks.string(f"{self._place}.{name}", self._rest.pop(name, None), "a text")
        if not text:
            raise WrongValue(f"{self._place}.{name}", " is empty: expected a text")
        return text

    def _layer(self, embeddings: bool = False) -> Any:
        most = self._all._model.core.config.layers - 1
        if embeddings and self._rest.get("layer") == "embeddings":
            return self._rest.pop("layer")
        return self._integer("layer", 0, most)

    def _positions(self) -> int | None:
        """The position of a token; None: all."""
        if "position" not in self._rest:
            return None
        return self._integer("position", 0, self._all._model.context_length - 1)

    def _make(self, work: Callable[..., None], *arguments: Any) -> None:
        """Calls `work`; errors of the library then name the place."""
        try:
            work(*arguments)
        except (WrongValue, WrongType) as error:
            raise type(error)(self._place, f": {error}") from None

    # ---- kinds ------------------------------------------------------------------------------------------------

    def _head(self) -> None:
        layer, head = self._layer(), self._integer("head", 0, self._all._model.core.config.attention.n_q - 1)
        factor, at = self._number("factor", 0, 2), self._positions()
        self._end()
        self._make(self._all.edits.scale_head, layer, head, factor, at)
        self._all.write(f"edit.scale_head({layer}, {head}, {_number(factor)}{_at(at)})")

    def _skip(self) -> None:
        layer = self._layer()
        part = checks.choice(f"{self._place}.part", self._rest.pop("part", None), ("attention", "mlp"))
        self._end()
        self._make(self._all.edits.skip, layer, part)
        self._all.write(f'edit.skip({layer}, "{part}")')

    def _direction(self) -> None:
        layer, strength = self._layer(embeddings=True), self._number("strength", -100, 100)
        to, away, at = self._text("to"), self._text("away"), self._positions()
        self._end()
        streams = [self._all.stream(f"{self._place}.{n}", t, layer, None) for n, t in (("to", to), ("away", away))]
        self._make(self._all.edits.add, layer, strength * (streams[0] - streams[1]), at)
        row = 0 if layer == "embeddings" else layer + 1
        trace = f'model.trace(text, want="hidden", positions=-1).hidden[{row}, 0]'
        self._all.write(f"to, away = ({trace} for text in ({to!r}, {away!r}))")
        self._all.write(f"edit.add({layer!r}, {_number(strength)} * (to - away){_at(at)})")

    def _patch(self) -> None:
        layer, text = self._layer(embeddings=True), self._text("text")
        at = self._integer("position", 0, self._all._model.context_length - 1)
        source = at if "from" not in self._rest else self._integer("from", 0, self._all._model.context_length - 1)
        self._end()
        values = self._all.stream(f"{self._place}.text", text, layer, source)
        self._make(self._all.edits.patch, layer, at, values)
        row = 0 if layer == "embeddings" else layer + 1
        self._all.write(f'other = model.trace({text!r}, want="hidden", positions={source}).hidden[{row}, 0]')
        self._all.write(f"edit.patch({layer!r}, {at}, other)")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _at(position: int | None) -> str:
    return "" if position is None else f", positions={position}"
