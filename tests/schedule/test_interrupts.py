"""Signals at any moment: an interrupt, or a handler that cancels, at every point where CPython may call one."""

from __future__ import annotations

import dis
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from pellucid import Context, Model
from pellucid.errors import ClosedError, PellucidError
from pellucid.schedule import run
from pellucid.schedule.cost import Cost
from tests.engine import models
from tests.schedule.test_interleavings import Interrupt

# What a finalizer raises is dropped, with a warning.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "speculate": False}
IDS = [1, 2, 3]


@pytest.fixture(scope="module", params=[False, True], ids=["", "prefix cache"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = models.write(tmp_path_factory.mktemp("interrupts"), "llama_gqa")
    with Model.load(path, threads=1, prefix_cache=request.param) as loaded:
        loaded.generate(IDS, max_tokens=8, **GREEDY)
        yield loaded


@pytest.fixture(autouse=True)
def alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run has the same points: what passes take is not measured, which is done every few of them."""
    monkeypatch.setattr(Cost, "add", lambda *_: None)


TOOL = 4  # of those of sys.monitoring, one that is nobody's


FILES = ("/generation.py", "/context.py", "/streams.py", "/uses.py")


def of_scheduler(code: CodeType) -> bool:
    """Or of what calls it."""
    return "/pellucid/schedule/" in code.co_filename or code.co_filename.endswith(FILES)


@cache
def operations(code: CodeType) -> dict[int, tuple[str, int]]:
    """By offset: an operation's name, and where an error in it is handled."""
    tried = dis._parse_exception_table(code)  # type: ignore[attr-defined]
    out = {}
    for one in dis.get_instructions(code):
        handlers = [entry.target for entry in tried if entry.start <= one.offset < entry.end]
        out[one.offset] = one.opname, handlers[0] if handlers else -1
    return out


class Handler:
    """Calls `act` at the given one of the points where a signal's handler may run in a file of the scheduler: where a
    function begins, a loop goes back, and after each call. Its error is one of that operation; here, it comes before
    the next, which has to have the same `try`."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        self.left, self.act = at, act
        self.before: dict[FrameType, tuple[str, int]] = {}

    def __enter__(self) -> Handler:
        gc.disable()  # Python drops what a handler raises in a finalizer
        if sys.version_info >= (3, 12):  # whose sys.settrace leaves out operations of functions it has not seen
            on = sys.monitoring
            on.use_tool_id(TOOL, "interrupts")
            on.register_callback(TOOL, on.events.INSTRUCTION, self.instruction)
            for event in (on.events.PY_RETURN, on.events.PY_YIELD, on.events.PY_UNWIND):
                on.register_callback(TOOL, event, self.leave)
            ends = on.events.PY_RETURN | on.events.PY_YIELD | on.events.PY_UNWIND
            on.set_events(TOOL, on.events.INSTRUCTION | ends)
        else:
            sys.settrace(self.call)
        return self

    def __exit__(self, *error: object) -> None:
        if sys.version_info >= (3, 12):
            sys.monitoring.set_events(TOOL, 0)
            sys.monitoring.free_tool_id(TOOL)
        else:
            sys.settrace(None)
        gc.enable()
        self.before.clear()

    def instruction(self, code: CodeType, offset: int) -> None:
        if of_scheduler(code):
            self.operation(sys._getframe(1), offset)

    def leave(self, code: CodeType, offset: int, argument: Any) -> None:
        self.before.pop(sys._getframe(1), None)

    def call(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not of_scheduler(frame.f_code):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self.trace

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            self.operation(frame, frame.f_lasti)
        elif event == "return":
            self.before.pop(frame, None)
        return self.trace

    def operation(self, frame: FrameType, offset: int) -> None:
        if self.left > 0:
            name, tried = self.before.get(frame, ("", -1))
            now = self.before[frame] = operations(frame.f_code).get(offset, ("", -1))
            if name.startswith(("CALL", "RESUME", "JUMP_BACKWARD")) and tried == now[1]:
                self.left -= 1
                if not self.left:
                    self.act()


def interrupt() -> None:
    raise Interrupt


Points = Callable[..., int]


@pytest.fixture
def points(request: pytest.FixtureRequest) -> Points:
    """One point of five in turn; with --nightly each."""
    return partial(at_points, every=1 if request.config.getoption("nightly") else 5)


def at_points(work: Callable[[Handler], None], step: int = 1, *, every: int) -> int:
    """Runs `work` with a handler at one of `every` times `step` points in turn, until it is not reached -> how many
    there were."""
    at = 1
    while True:
        handler = Handler(at, interrupt)
        work(handler)
        if handler.left > 0:
            return at
        at += step * every


def check(model: Model) -> None:
    """Nothing is held, and nothing is left over."""
    scheduler = run.of(model.core)
    assert not scheduler._lock.locked()
    model.clear_cache()  # as any call, it does what was left to do
    stats = model.stats()
    assert (stats.running, stats.waiting, stats.cache_bytes_used) == (0, 0, 0)
    assert scheduler._driver is None and scheduler._stepping is None and scheduler._batch is None
    assert not scheduler._left and not scheduler._sleeping and not scheduler._turns and not scheduler._holders.calls


def in_context(model: Model) -> Any:
    with model.context() as context:
        return context.generate(IDS, max_tokens=2, **GREEDY).ids


CALLS: dict[str, Callable[[Model], Any]] = {
    "generate": lambda m: m.generate(IDS, max_tokens=3, **GREEDY).ids,
    "several": lambda m: [one.ids for one in m.generate([IDS, IDS[:1]], max_tokens=2, **GREEDY)],
    "map": lambda m: [one.ids for one in m.map([IDS, IDS[:1]], at_once=1, max_tokens=2, **GREEDY)],
    "context": in_context,
    "score": lambda m: m.score(IDS).total,
    "logits": lambda m: m.logits(IDS).tolist(),
    "trace": lambda m: m.trace(IDS, "hidden").hidden.tolist(),
    "embed": lambda m: m.embed([IDS], pooling="mean").tolist(),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_is_interrupted(model: Model, name: str, points: Points) -> None:
    """Nothing is left of it, and the next has what it has alone."""
    call = CALLS[name]
    expected = call(model)

    def work(handler: Handler) -> None:
        found: Any
        try:
            with handler:
                found = call(model)
        except Interrupt:
            found = call(model)
        assert found == expected
        check(model)

    assert points(work, 7 if name in ("several", "map", "context") else 1) > 50


def mapped(model: Model) -> Iterator[Any]:
    return model.map([IDS, IDS[:1], IDS[:2]], at_once=2, max_tokens=8, **GREEDY)


DROPPED: dict[str, Callable[[Model], Iterator[Any]]] = {
    "stream": lambda m: m.stream(IDS, max_tokens=8, **GREEDY),
    "streams": lambda m: m.stream([IDS, IDS[:1]], max_tokens=8, **GREEDY),
    "context": lambda m: m.context().stream(IDS, max_tokens=8, **GREEDY),
    "map": mapped,
}


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("name", DROPPED)
def test_one_that_is_dropped_and_interrupted(
    model: Model, name: str, closes: bool, monkeypatch: pytest.MonkeyPatch, points: Points
) -> None:
    """No request of it goes on."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # the test runner's keeps what it is told of

    def work(handler: Handler) -> None:
        readers: list[Any] = [DROPPED[name](model)]
        next(readers[0])
        with suppress(Interrupt), handler:
            if closes:
                readers[0].close()
            readers.clear()
        readers.clear()
        check(model)

    assert points(work) > 20


def test_an_interrupt_after_a_pass_of_mirostat(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose limit each draw changes: the one that was lost is drawn again with the limit that it had."""
    given: dict[str, Any] = {"temperature": 1.0, "mirostat": 2, "mirostat_tau": 2.0, "ignore_eos": True, "seed": 2}
    expected = model.generate(IDS, max_tokens=30, logprobs=1, **given)
    request: Any = model.submit(IDS, max_tokens=30, logprobs=1, **given)
    scheduler, engine = run.of(model.core), model.core.engine
    next(request)
    lost = 0

    class Interrupting:
        def forward(self, *arguments: Any, **options: Any) -> None:
            nonlocal lost
            engine.forward(*arguments, **options)
            lost += 1
            raise Interrupt

    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "_open", Interrupting)
        with pytest.raises(Interrupt):
            next(request)
    done = request.result(timeout=20)
    assert lost == 1 and (done.ids, done.logprobs) == (expected.ids, expected.logprobs)
    check(model)


def test_an_interrupt_while_others_are_told(model: Model, points: Points) -> None:
    """Whoever waits until their request has left."""
    scheduler = run.of(model.core)

    def work(handler: Handler) -> None:
        told: list[bool] = []
        scheduler.note([], lambda: told.append(True))
        try:
            with handler:
                scheduler.stats()
        except Interrupt:
            pass
        check(model)
        assert told

    assert points(work) > 20


def closed_early(context: Context) -> None:
    with context.stream(IDS, max_tokens=4, **GREEDY) as stream:
        next(stream)


KEPT: dict[str, Callable[[Context], Any]] = {
    "generate": lambda c: c.generate(IDS, max_tokens=2, **GREEDY),
    "stream": closed_early,
    "append": lambda c: c.append(IDS),
    "rewind": lambda c: c.rewind(1),
    "fork": lambda c: c.fork(),
    "next": lambda c: c.next(2),
    "logits": lambda c: c.logits(),
    "score": lambda c: c.score([IDS, IDS[:1]]),
    "trace": lambda c: c.trace("hidden"),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_context_that_is_interrupted(model: Model, name: str, points: Points) -> None:
    """It is not in use any more, and goes on from what it holds."""
    expected = model.generate(IDS, max_tokens=2, **GREEDY).ids

    def work(handler: Handler) -> None:
        with model.context() as context:
            context.append([3, 2])
            try:
                with handler:
                    KEPT[name](context)
            except Interrupt:
                pass
            held = context.ids
            assert held[:1] == [3]
            going_on = context.generate(max_tokens=2, **GREEDY).ids
            assert going_on == model.generate(held, max_tokens=2, **GREEDY).ids
            context.rewind(0)
            assert context.generate(IDS, max_tokens=2, **GREEDY).ids == expected
        check(model)

    assert points(work, 3 if name in ("generate", "stream") else 1) > 15


def test_a_request_that_is_interrupted(model: Model, points: Points) -> None:
    """It goes on where its reader comes again; or says so, where what it was interrupted in cannot be done again."""
    expected = model.generate(IDS, max_tokens=3, **GREEDY).ids
    found = {"whole": 0, "error": 0}

    def work(handler: Handler) -> None:
        request = model.submit(IDS, max_tokens=3, **GREEDY)
        try:
            with handler:
                request.result()
        except Interrupt:
            pass
        try:
            done: Any = request.result(timeout=20)
        except PellucidError as error:
            assert "interrupt" in str(error)
            found["error"] += 1
        else:
            assert done.ids == expected
            found["whole"] += 1
        check(model)

    assert points(work) > 100
    assert found["whole"] > found["error"] > 0


@pytest.mark.parametrize("way", ["generate", "submit"])
def test_an_interrupt_before_a_stop_string(smollm2: Path, way: str, points: Points) -> None:
    """Where the log probabilities of a text's end are still to be computed."""
    given: dict[str, Any] = {"temperature": 0, "speculate": False, "stop": ["ris"], "logprobs": 1, "max_tokens": 4}
    with Model.load(smollm2, threads=1) as model:
        expected = model.generate("The capital of France is", **given)
        assert (expected.text, expected.finish_reason, len(expected.logprobs)) == (" Pa", "stop", len(expected.ids))
        found = {"whole": 0, "error": 0}

        def work(handler: Handler) -> None:
            request = model.submit("The capital of France is", **given) if way == "submit" else None
            call = partial(model.generate, "The capital of France is", **given)
            try:
                with handler:
                    done: Any = call() if request is None else request.result()
            except Interrupt:
                pass
            try:
                done = call() if request is None else request.result(timeout=20)
            except PellucidError as error:
                assert request is not None and "interrupt" in str(error)
                found["error"] += 1
            else:
                assert (done.ids, done.text, done.logprobs) == (expected.ids, expected.text, expected.logprobs)
                found["whole"] += 1
            check(model)

        assert points(work, 2) > 100
        assert found["whole"] > found["error"]


def test_a_handler_that_cancels_what_it_interrupts(model: Model, points: Points) -> None:
    expected = model.generate(IDS, max_tokens=3, **GREEDY).ids
    reasons = set()

    def work(handler: Handler) -> None:
        request = model.submit(IDS, max_tokens=3, **GREEDY)
        handler.act = request.cancel
        with handler:
            done: Any = request.result()
        assert done.ids == expected[: len(done.ids)]
        reasons.add(done.finish_reason)
        check(model)

    assert points(work) > 100
    assert reasons == {"cancelled", "length"}


@pytest.mark.parametrize("name", ["generate", "map", "context", "submit"])
def test_a_handler_that_closes_the_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: Points
) -> None:
    """Neither waits for the other, whichever locks the interrupted call has."""
    monkeypatch.setattr("pellucid.schedule.departures._MOST_WAIT", 0.01)
    path = models.write(tmp_path, "llama_gqa")
    call = CALLS.get(name, lambda m: m.submit(IDS, max_tokens=3, **GREEDY).result().ids)

    def work(handler: Handler) -> None:
        with Model.load(path, threads=1, prefix_cache=True) as model:
            expected = call(model)
            handler.act = model.close
            try:
                with handler:
                    found = call(model)
            except ClosedError:
                assert not handler.left
            else:
                assert found == expected

    assert points(work, 7) > 50


def test_cancel_that_is_interrupted(model: Model, points: Points) -> None:
    """By an interrupt, or by a handler that cancels the same request."""

    def work(handler: Handler, cancels: bool) -> None:
        request = model.submit(IDS, max_tokens=3, **GREEDY)
        first = next(request)
        if cancels:
            handler.act = request.cancel
        try:
            with handler:
                request.cancel()
        except Interrupt:
            request.cancel()
        try:
            done: Any = request.result(timeout=20)
        except PellucidError as error:
            assert "interrupt" in str(error) and not cancels
        else:
            assert done.ids[:1] == first.ids and done.finish_reason == "cancelled"
        check(model)

    for cancels in (False, True):
        assert points(partial(work, cancels=cancels)) > 10
