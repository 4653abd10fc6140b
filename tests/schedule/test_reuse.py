"""What is computed once and found again: turns, system prompts, bursts; and when it is given up."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pellucid import Completion, Model
from pellucid.errors import ClosedError
from pellucid.schedule import run
from pellucid.schedule.caller import Caller
from pellucid.schedule.memory import Freed
from tests.engine import models
from tests.families.case import load_golden, write_gguf
from tests.families.cases import BY_NAME

GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "speculate": False}  # guesses are rows, too
SYSTEM = [i % 50 for i in range(100)]


@pytest.fixture(scope="module", params=["llama_gqa", "gemma3", "granitehybrid"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reuse")
    if request.param in BY_NAME:
        case = BY_NAME[request.param]
        return write_gguf(case, load_golden(case), folder / "model.gguf")
    return models.write(folder, request.param)


def used(model: Model) -> int:
    return int(model.core.engine.info()["cache_bytes_used"])


def rows(model: Model) -> int:
    return 0 if model.core.scheduler is None else int(model.core.scheduler.rows)


def test_a_second_turn_computes_what_is_new(path: Path) -> None:
    with Model.load(path, threads=1, prefix_cache=True) as model:
        prompt = SYSTEM
        first = model.generate(prompt, max_tokens=20, **GREEDY)
        assert first.timings.cached_tokens == 0 and first.timings.prefill_tokens == 100
        second = model.generate([*prompt, *first.ids, 3, 4, 5], max_tokens=5, **GREEDY)
        # The first turn's last token was drawn, and never computed.
        assert second.timings.cached_tokens == 119 and second.timings.prefill_tokens == 4
        third = model.generate([*second.prompt_ids, *second.ids, 6], max_tokens=5, **GREEDY)
        assert third.timings.cached_tokens == len(second.prompt_ids) + 4
        before = rows(model)
        again = model.generate(prompt, max_tokens=1, **GREEDY)
        assert again.timings.cached_tokens == 99 and rows(model) == before + 1 and again.ids == first.ids[:1]


def test_a_system_prompt_is_found_from_its_third_use_on(path: Path) -> None:
    """Where a sequence can go back to any length, from its second."""
    with Model.load(path, threads=1, prefix_cache=True) as model:
        found = []
        for i in range(4):
            ids = [*SYSTEM, *[i] * 100]
            found.append(model.generate(ids, max_tokens=3, **GREEDY).timings.cached_tokens)
        assert found in ([0, 100, 100, 100], [0, 0, 100, 100])
        assert (found[1] == 100) == (path.name.startswith("llama"))


@pytest.mark.parametrize("order", ["one call", "threads"])
def test_a_burst_computes_its_common_prefix_once(path: Path, order: str) -> None:
    prompts = [[*SYSTEM, i, i, i] for i in range(6)]
    with Model.load(path, threads=1) as model:
        expected = [one.ids for one in model.generate(prompts, max_tokens=4, **GREEDY)]
    with Model.load(path, threads=1, prefix_cache=True) as model:
        if order == "one call":
            found = [one.ids for one in model.generate(prompts, max_tokens=4, **GREEDY)]
        else:
            found = [[] for _ in prompts]
            begin = threading.Barrier(6)

            def ask(i: int) -> None:
                begin.wait()
                found[i] = model.generate(prompts[i], max_tokens=4, **GREEDY).ids

            threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert found == expected
        again = 1  # where the first was beyond their common prefix before the next came, which computes it once more
        if order == "threads" and not path.name.startswith("llama"):
            again = (rows(model) - 6 * (3 + 3)) // 100
        assert again in (1, 2) and rows(model) == again * 100 + 6 * (3 + 3)
        assert model.core.scheduler.reuse.hits == (6 - again) * 100


def test_one_that_comes_when_the_first_is_beyond_the_common_prefix(path: Path) -> None:
    """Between its prompt's passes: the second computes the prefix again, and the third finds it."""
    prompts = [[*SYSTEM, i, i, i] for i in range(3)]
    with Model.load(path, threads=1) as model:
        expected = [model.generate(ids, max_tokens=4, **GREEDY).ids for ids in prompts]
    with Model.load(path, threads=1, prefix_cache=True) as model:
        scheduler, caller = run.of(model.core), Caller(None, 1 << 30)
        asked: list[Any] = []
        for ids in prompts:
            asked.append(model.submit(ids, max_tokens=4, **GREEDY))
            assert scheduler.take_seat(caller)
            scheduler.one_pass(caller, None)
            scheduler.leave_seat(caller)
        assert [one.result().ids for one in asked] == expected
        assert asked[2].stats.cached == 100


@pytest.mark.parametrize("way", ["reader lags", "all is drawn"])
def test_a_request_waits_for_no_one_that_does_not_go_on(path: Path, way: str) -> None:
    """One that was given up, and whose reader has to come before it begins again."""
    with Model.load(path, threads=1, prefix_cache=True) as model:
        expected = [model.generate([*SYSTEM, i], max_tokens=3, **GREEDY).ids for i in (7, 8)]
        model.clear_cache()
        scheduler = run.of(model.core)
        ahead, most = (1, 100) if way == "reader lags" else (9, 3)
        slow = model.submit([*SYSTEM, 8], ahead=ahead, max_tokens=most, **GREEDY)
        first = next(slow)
        model.generate([9], max_tokens=5, **GREEDY)
        call: Any = SimpleNamespace(caller=Caller(None, 1), short=False)
        assert scheduler.make_room(call) is Freed.AGAIN and slow.stats.preempted == 1
        scheduler.end_call(call)
        model.clear_cache()
        assert model.generate([*SYSTEM, 7], max_tokens=3, **GREEDY).ids == expected[0]
        assert [*first.ids, *(id for _ in range(2) for id in next(slow).ids)] == expected[1]
        slow.cancel()


def test_a_request_waits_for_no_one_that_leaves(path: Path) -> None:
    """One that computes a prefix is cancelled, between passes and while others wait for it."""
    with Model.load(path, threads=1, prefix_cache=True) as model:
        expected = model.generate([*SYSTEM, 7], max_tokens=3, **GREEDY).ids
        model.clear_cache()
        asked = 0

        def cancel() -> bool:
            nonlocal asked
            asked += 1
            return asked > 3

        slow = threading.Thread(target=lambda: model.generate([*SYSTEM, 1], max_tokens=3, chunk=8, cancel=cancel))
        slow.start()
        found = [model.generate([*SYSTEM, 7], max_tokens=3, chunk=8, **GREEDY).ids for _ in range(2)]
        slow.join()
        assert found == [expected] * 2


def test_what_a_cancelled_request_computed_is_kept(path: Path) -> None:
    with Model.load(path, threads=1, prefix_cache=True) as model:
        with model.stream(SYSTEM, max_tokens=50, **GREEDY) as stream:
            ids = [*next(stream).ids, *next(stream).ids]
        done = model.generate([*SYSTEM, *ids, 1], max_tokens=1, **GREEDY)
        assert done.timings.cached_tokens == 101
        asked = 0

        def cancel() -> bool:
            nonlocal asked
            asked += 1
            return asked > 4

        other = [9, *SYSTEM]
        assert model.generate(other, max_tokens=1, chunk=16, cancel=cancel).finish_reason == "cancelled"
        if path.name.startswith("llama"):
            cached = model.generate(other, max_tokens=1, **GREEDY).timings.cached_tokens
            assert 16 <= cached < 100 and cached % 16 == 0


def test_salts_share_nothing(path: Path) -> None:
    with Model.load(path, threads=1, prefix_cache=True) as model:
        found = []
        for salt in ("a", "", "a", "b", None, "b"):
            request = model.submit([*SYSTEM, 1], cache_salt=salt, max_tokens=2, **GREEDY)
            request.result()
            found.append(request.stats.cached)
        assert found == [0, 0, 100, 0, 100, 100]
        together = [model.submit([*SYSTEM, 2], cache_salt=salt, max_tokens=2, **GREEDY) for salt in "cdc"]
        done: list[Any] = [one.result() for one in together]
        assert len({tuple(one.ids) for one in done}) == 1
        assert sorted(one.stats.cached for one in together) == [0, 0, 100]
        with pytest.raises(TypeError, match="cache_salt"):
            model.submit([1], cache_salt=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [-1, "yes", 1.5, [1]])
def test_wrong_limits(path: Path, wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="prefix_cache"):
        Model.load(path, prefix_cache=wrong)


def test_nothing_is_kept_without_the_option(path: Path) -> None:
    every: list[Any] = [False, None, 0, np.False_]
    for off in every:
        with Model.load(path, threads=1, prefix_cache=off) as model:
            for _ in range(2):
                done = model.generate(SYSTEM, max_tokens=3, **GREEDY)
                assert done.timings.cached_tokens == 0 and used(model) == 0
            assert model.core.scheduler.reuse is None and model.core.engine.spare is None
            model.clear_cache()


def test_calls_that_keep_their_own_cache_or_none(path: Path) -> None:
    with Model.load(path, threads=1, prefix_cache=True) as model:
        expected = model.generate(SYSTEM, max_tokens=3, cache=False, **GREEDY).ids
        with model.context() as context:
            assert context.generate(SYSTEM, max_tokens=3, **GREEDY).ids == expected
        reuse = model.core.scheduler.reuse
        assert reuse.queries == 0 and reuse.bytes == 0 == used(model)


def test_limits(path: Path) -> None:
    with Model.load(path, threads=1) as model, model.context() as context:
        context.append(SYSTEM)
        one = used(model)
    with Model.load(path, threads=1, prefix_cache=np.int64(2 * one)) as model:
        for i in range(9):
            model.generate([i, *SYSTEM], max_tokens=1, **GREEDY)
            assert model.core.scheduler.reuse.bytes == used(model) <= 2 * one
        assert used(model) > 0


def test_whoever_lacks_memory_gets_it(path: Path) -> None:
    """A context and passes over prompts take what the prefix cache holds."""
    with Model.load(path, threads=1) as model, model.context() as context:
        context.append(SYSTEM * 2)
        one, expected = used(model), model.logits(SYSTEM)
    with Model.load(path, threads=1, prefix_cache=True, cache_bytes=2 * one) as model:
        for i in range(9):
            model.generate([i, *SYSTEM], max_tokens=1, **GREEDY)
        held = model.core.scheduler.reuse.bytes
        assert one / 2 < held <= 2 * one
        with model.context() as context:
            context.append(SYSTEM * 2)
            assert model.core.scheduler.reuse.bytes < held
            assert (model.logits(SYSTEM) == expected).all()


def test_an_edit_has_a_cache_of_its_own(path: Path) -> None:
    with Model.load(path, threads=1) as model, model.edit() as edit:
        edit.skip(0, "mlp")
        expected = [edit.generate([*SYSTEM, i], max_tokens=4, **GREEDY).ids for i in range(3)]
    with Model.load(path, threads=1, prefix_cache=True) as model:
        plain = model.generate(SYSTEM, max_tokens=4, **GREEDY).ids
        edit = model.edit()
        edit.skip(0, "mlp")
        done = [edit.generate([*SYSTEM, i], max_tokens=4, **GREEDY) for i in range(3)]
        assert [one.ids for one in done] == expected
        assert done[0].timings.cached_tokens == 0 and done[2].timings.cached_tokens == 100
        assert model.generate(SYSTEM, max_tokens=4, **GREEDY).ids == plain
        reuse = edit.core.scheduler.reuse
        edit.clear_cache()
        assert reuse.bytes == 0 < model.core.scheduler.reuse.bytes
        edit.generate(SYSTEM, max_tokens=4, **GREEDY)
        assert reuse.bytes > 0
        model.close()  # and its views
        assert reuse.bytes == 0 == model.core.scheduler.reuse.bytes
        with pytest.raises(ClosedError):
            model.clear_cache()


def test_close_frees_everything(path: Path) -> None:
    model = Model.load(path, threads=1, prefix_cache=True)
    stream = model.stream(SYSTEM, max_tokens=20, **GREEDY)
    next(stream)
    model.generate([1, 2, 3], max_tokens=2)
    reuse = model.core.scheduler.reuse
    assert reuse.bytes > 0
    model.close()
    assert reuse.bytes == 0
    stream.close()  # nothing is kept after the end
    assert reuse.bytes == 0
    from pellucid import _engine

    del model, stream, reuse
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, _engine.Sequence) and one.length == 101]


def test_a_forked_child_begins_with_an_empty_cache(path: Path) -> None:
    with Model.load(path, threads=2, prefix_cache=True) as model:
        expected = model.generate(SYSTEM, max_tokens=5, **GREEDY).ids
        pid = os.fork()
        if not pid:
            code = 1
            try:
                reuse = model.core.scheduler.reuse
                found = [model.generate(SYSTEM, max_tokens=5, **GREEDY) for _ in range(2)]
                good = [one.ids for one in found] == [expected] * 2
                cached = [one.timings.cached_tokens for one in found]
                code = 0 if good and cached == [0, 99] and reuse.bytes == used(model) else 2
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        again = model.generate(SYSTEM, max_tokens=5, **GREEDY)
        assert again.ids == expected and again.timings.cached_tokens == 99


@pytest.mark.parametrize("options", [{}, {"logprobs": 2}, {"logprobs": 1, "n": 3}])
def test_stop_strings_leave_what_was_computed(smollm2: Path, options: dict[str, Any]) -> None:
    """A stop string begins within a token: the text's last tokens are others than those that were drawn."""
    prompt = "List of fruit: apple, banana, cherry, apple, banana, cherry, apple, banana, cherry, apple, ban"
    options = {**options, "stop": "rry, ap", "temperature": 0.3, "seed": 4, "max_tokens": 30}

    def turns(model: Model) -> list[Any]:
        out: list[Any] = []
        text = prompt
        for _ in range(3):
            done = model.generate(text, **options)
            done = done[0] if isinstance(done, list) else done
            out.append((done.text, done.ids, done.logprobs, done.finish_reason))
            text += done.text + "rry"
            for ids in (done.prompt_ids, [*done.prompt_ids, *done.ids]):
                out.append(model.generate(ids, max_tokens=3, temperature=0, logprobs=1).logprobs)
        return out

    with Model.load(smollm2, threads=2) as model:
        expected = turns(model)
    with Model.load(smollm2, threads=2, prefix_cache=True) as model:
        assert turns(model) == expected
        assert model.core.scheduler.reuse.hits > 0


def test_a_chats_second_turn(smollm2: Path) -> None:
    with Model.load(smollm2, threads=2, prefix_cache=True) as model:
        messages = [
            {"role": "system", "content": "You are a patient teacher of geography. " * 8},
            {"role": "user", "content": "Name a river."},
        ]
        first = model.chat(messages, max_tokens=24, temperature=0)
        messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "And a lake?"}]
        second = model.chat(messages, max_tokens=8, temperature=0)
        assert second.timings.cached_tokens >= 0.98 * (len(first.prompt_ids) + len(first.ids))
    with Model.load(smollm2, threads=2) as model:
        assert model.chat(messages, max_tokens=8, temperature=0).ids == second.ids


TEMPLATE = (
    "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + m.role + '\n' + m.content + '<end_of_turn>' }}{% endfor %}"
)


@pytest.mark.gemma
@pytest.mark.parametrize("tools", [None, [{"type": "function", "function": {"name": f"f{i}"}} for i in range(9)]])
def test_a_conversations_instructions_are_found_from_their_second_use_on(gemma3: Path, tools: Any) -> None:
    """Windows, too: where other conversations part from the first one is known before there are any."""
    instructions = [] if tools else [{"role": "system", "content": "You are a patient teacher of geography. " * 12}]
    conversations = [[*instructions, {"role": "user", "content": said}] for said in ("Name a river.", "Which lakes?")]
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 4, "tools": tools, "template": TEMPLATE}
    with Model.load(gemma3, threads=2, prefix_cache=True) as model:
        first, second = [model.chat(messages, **options) for messages in conversations]
        request = model.submit(messages=[*instructions, {"role": "user", "content": "No."}], **options)
        third = request.result()
    assert first.timings.cached_tokens == 0 and isinstance(third, Completion)
    for found in (second, third):
        assert 64 < len(found.prompt_ids) - 24 < found.timings.cached_tokens < len(found.prompt_ids)
    with Model.load(gemma3, threads=2) as model:
        assert model.chat(conversations[1], **options).ids == second.ids
