"""Calls that generate: from prompts, messages and options to streams."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pellucid import arguments, checks
from pellucid.core import Core
from pellucid.errors import BatchError, PellucidError, WrongValue, again, out_of_memory
from pellucid.generation import ChatCall, Job, canceller, parse_chat_options, parse_options
from pellucid.options import TEMPLATE_DEFAULTS
from pellucid.reply import Reply
from pellucid.results import Gathered, Piece
from pellucid.sampling import SamplingOptions
from pellucid.schedule.caller import AHEAD, Caller, Shared, Work
from pellucid.schedule.prefix import common
from pellucid.schedule.request import Request
from pellucid.schedule.room import cache_bytes_used
from pellucid.schedule.run import Item, drafts, goes_back, of, pieces
from pellucid.schedule.stats import Stats
from pellucid.schedule.turns import score
from pellucid.streams import BatchStream, Reader, Stream
from pellucid.trimming import trimmed

if TYPE_CHECKING:
    from pellucid.text.chat import ChatPrompt

__all__ = ["Begun", "chat", "launch", "start_chat", "stream", "submit"]

MOST_COPIES = 2**16  # completions per prompt
MOST_PRIORITY = 2**31


class Begun(NamedTuple):
    """A prompt: its tokens, and the text that `echo` returns first."""

    ids: list[int]
    text: str
    dropped: int = 0  # messages that were left out
    reply: Reply | None = None  # what the answer may have besides text
    chat: bool = False  # it is a conversation
    opening: int = 0  # as in a Job

    def echoed(self, options: SamplingOptions) -> int:
        """Characters of the prompt that come before the new text."""
        return len(self.text) if options.echo else 0

    def check(self, core: Core, options: SamplingOptions) -> None:
        """Raises the errors of wrong options."""
        self.job(core, options, observer=False)

    def job(self, core: Core, options: SamplingOptions, salt: str = "", observer: Any = None) -> Job:
        """Its generation. options: with the seed drawn."""
        ids = list(self.ids)
        return Job(
            core,
            ids,
            options,
            None,
            len(ids),
            self.text,
            salt=salt,
            observer=observer,
            reply=self.reply,
            chat=self.chat,
            opening=self.opening,
        )


def stream(core: Core, prompt: Any, keywords: Mapping[str, Any], n: Any = None) -> Any:
    """``Model.stream``: a Stream; for several prompts, or with n, a BatchStream."""
    options = parse_options(keywords)
    several, prompts = arguments.prompts(prompt, "prompt")
    names = _names("prompt", prompts, several)
    begun = []
    with out_of_memory("to generate"):
        for one, name in zip(prompts, names, strict=True):
            ids = core.prompt(one, name)
            text = "" if not options.echo else one if isinstance(one, str) else core.detokenize(ids)
            begun.append(Begun(ids, text))
    return _start(core, begun, names, options, n, several)


def chat(core: Core, messages: Any, keywords: Mapping[str, Any], n: Any = None) -> Any:
    """``Model.chat``, streaming."""
    call = parse_chat_options(keywords)
    several, conversations = arguments.conversations(messages)
    names = _names("messages", conversations, several)
    begun = [_conversation(core, one, name, call) for one, name in zip(conversations, names, strict=True)]
    return _start(core, begun, names, call.options, n, several)


def start_chat(core: Core, messages: Any, keywords: Mapping[str, Any]) -> tuple[Begun, SamplingOptions]:
    """(a conversation's prompt, checked options)."""
    call = parse_chat_options(keywords)
    several, found = arguments.conversations(messages)
    return _conversation(core, found if several else found[0], "messages", call), call.options


def begin(core: Core, name: str, value: Any, keywords: Mapping[str, Any]) -> tuple[Begun, SamplingOptions]:
    """(a prompt, checked options) from what a caller gave as prompt, prompt_ids or messages."""
    if name == "messages":
        return start_chat(core, value, keywords)
    options = parse_options({k: v for k, v in keywords.items() if v is not None or k not in TEMPLATE_DEFAULTS})
    if name == "prompt_ids":
        value = core.check_ids(value, name)
    ids = core.prompt(value, name)
    return Begun(ids, "" if not options.echo else value if isinstance(value, str) else core.detokenize(ids)), options


def submit(
    core: Core,
    prompt: Any,
    messages: Any,
    prompt_ids: Any,
    keywords: Mapping[str, Any],
    *,
    n: Any,
    priority: Any,
    key: Any,
    timeout: Any,
    ahead: Any,
    cache_salt: Any,
    admitted: bool = False,
) -> Request:
    """``Model.submit``. admitted: the queue is known to have room for it."""
    given = {"prompt": prompt, "messages": messages, "prompt_ids": prompt_ids}
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        found = f" and {names[1]} are both given" if names else " is missing"
        raise WrongValue(names[0] if names else "prompt", f"{found}: expected one of prompt, messages, prompt_ids")
    priority = checks.integer("priority", 0 if priority is None else priority, -MOST_PRIORITY, MOST_PRIORITY)
    key = checks.string("key", "" if key is None else key)
    deadline = None if timeout is None else time.monotonic() + checks.number("timeout", timeout, 0)
    ahead = checks.integer("ahead", AHEAD if ahead is None else ahead, 1)
    salt = checks.string("cache_salt", "" if cache_salt is None else cache_salt)
    copies = checks.integer("n", 1 if n is None else n, 1, MOST_COPIES)
    begun, options = begin(core, names[0], given[names[0]], keywords)
    with out_of_memory("to generate"):
        core.decoder()
        scheduler = of(core)
        seeds = options.seeds(1, copies)
        shared = Shared(len(begun.ids) - 1) if copies > 1 and options.cache and len(begun.ids) > 1 else None
        caller = Caller(canceller(options.cancel), options.chunk)
        works, gathered = [], []
        for seed in seeds:
            settled = options.settled(seed)
            gathered.append(Gathered(begun.ids, settled, begun.dropped, begun.echoed(options)))
            job = begun.job(core, settled, salt)
            works.append(
                Work(
                    job,
                    caller,
                    priority=priority,
                    key=key,
                    deadline=deadline,
                    shared=shared,
                    ahead=ahead,
                    drafts=drafts(job),
                )
            )
        scheduler.room.check(names[0], len(begun.ids), options.max_tokens)
        if not admitted:
            scheduler.check_room(copies, len(begun.ids), key)
        request = Request(scheduler, works, gathered, n is not None and copies > 1)
        request.begin(options.echo)
    return request


def drive(core: Core, max_waiting: Any, max_wait: Any, max_waiting_tokens: Any) -> None:
    """``Model.drive``."""
    waiting = math.inf if max_waiting is None else checks.integer("max_waiting", max_waiting, 0)
    wait = math.inf if max_wait is None else checks.number("max_wait", max_wait, 0)
    tokens = math.inf
    if max_waiting_tokens is not None:
        tokens = checks.integer("max_waiting_tokens", max_waiting_tokens, 0)
    core.decoder()
    scheduler = of(core)
    scheduler.max_waiting, scheduler.max_wait, scheduler.max_waiting_tokens = waiting, wait, tokens
    scheduler.start_driver()


def stats(core: Core) -> Stats:
    """``Model.stats``."""
    core.open()
    return of(core).stats(cache_bytes_used(core), core.facts.cache_limit)


def _conversation(core: Core, messages: Any, name: str, call: ChatCall) -> Begun:
    dropped = 0
    if call.trim:
        prompt, dropped = trimmed(core, messages, name, call.options.max_tokens, call.own)
    else:
        prompt = core.conversation(messages, name, **call.own)
    opening = _opening(core, prompt, messages, **call.own) if call.options.cache else 0
    return Begun(prompt.ids, prompt.text, dropped, _reply(core, prompt, call), True, opening)


def _opening(core: Core, prompt: ChatPrompt, messages: Any, template: str | None = None, **options: Any) -> int:
    """Tokens of a conversation's instructions, at whose end a sequence is kept; 0: none needs to be."""
    if core.prefix_bytes == 0 or goes_back(core):
        return 0
    try:
        return common(prompt.ids, core.need_tokenizer().chat(template).opening(prompt, messages, **options))
    except PellucidError:  # the template wants other roles
        return 0


def _reply(core: Core, prompt: ChatPrompt, call: ChatCall) -> Reply | None:
    chat = core.need_tokenizer().chat(call.own.get("template")).of(call.own.get("tools"))
    return Reply.of(core.piece, chat.specials, chat.source, prompt.text, call.asked)


def _names(name: str, values: list[Any], several: bool) -> list[str]:
    return [f"{name}[{i}]" for i in range(len(values))] if several else [name]


@out_of_memory("to generate")
def _start(
    core: Core, begun: list[Begun], names: list[str], options: SamplingOptions, n: Any, several: bool
) -> Stream | BatchStream:
    copies = 1 if n is None else checks.integer("n", n, 1, MOST_COPIES)
    if len(begun) * copies > arguments.MOST_PROMPTS:
        raise WrongValue("n", f"={copies}: expected at most {arguments.MOST_PROMPTS} completions in all")
    core.decoder()
    for one, name in zip(begun, names, strict=True):
        of(core).room.check(name, len(one.ids), options.max_tokens)
    seeds = options.seeds(len(begun), copies)
    gathered = [
        Gathered(one.ids, options.settled(seed), one.dropped, one.echoed(options))
        for one, seed in zip((one for one in begun for _ in range(copies)), seeds, strict=True)
    ]

    def job(i: int) -> Job:
        one = begun[i // copies]
        return one.job(core, gathered[i].options)

    if not several and n is None:
        return launch(job(0), options, dropped=begun[0].dropped)
    if gathered:
        begun[0].check(core, gathered[0].options)
    reader = Reader()
    share = copies > 1 and options.cache
    items = _items(job, len(gathered), copies if share else 1)
    return BatchStream(_run_batch(core, items, names, copies, options, reader), gathered, reader)


def _items(job: Callable[[int], Job], n: int, copies: int) -> Iterator[Item]:
    """The generations of a call, made as they are taken. copies: how many successive ones share a prompt."""
    shared: Shared | None = None
    for i in range(n):
        one = job(i)
        if copies > 1 and i % copies == 0:
            shared = Shared(len(one.ids) - 1) if len(one.ids) > 1 else None
        yield Item(i, one, shared)


def launch(
    job: Job,
    options: SamplingOptions,
    release: Callable[[], None] | None = None,
    undo: Callable[[], None] | None = None,
    dropped: int = 0,
) -> Stream:
    """The stream of one job. release: called when the stream ends or is closed. undo: called if it fails before its
    first new token. dropped: messages left out of its prompt."""
    reader = Reader()
    gathered = Gathered(list(job.ids), job.options, dropped, len(job.prompt_text) if job.options.echo else 0)

    def give_back() -> None:
        if release is not None:
            leave = job.leave  # read once: another thread may free it
            release() if leave is None else leave(release)
            job.use.ends = True  # now that the release is noted

    return Stream(_run_one(job, options, reader, undo), gathered, reader, give_back)


def _run_one(
    job: Job, options: SamplingOptions, reader: Reader, undo: Callable[[], None] | None
) -> Generator[Piece, None, None]:
    running = pieces(job.core, [Item(0, job)], options, reader, score)
    try:
        try:
            for _, piece in running:
                if isinstance(piece, Exception):
                    raise again(piece)
                yield piece
        finally:
            running.close()
    except BaseException as e:
        if undo is not None and not job.new and not isinstance(e, GeneratorExit):
            job.settle()
            undo()
        raise


def _run_batch(
    core: Core,
    items: Iterator[Item],
    names: list[str],
    copies: int,
    options: SamplingOptions,
    reader: Reader,
) -> Generator[tuple[int, Piece], None, None]:
    """The pieces of several generations, the same number for each prompt, with their indices. names: of the prompts,
    for errors."""
    failures: dict[int, Exception] = {}
    running = pieces(core, items, options, reader, score)
    try:
        for item, piece in running:
            if isinstance(piece, Exception):
                failures[item.number] = piece
            else:
                yield item.number, piece
    finally:
        running.close()
    if failures:
        first, what = min(failures), "prompts" if copies == 1 else "completions"
        text = f"{names[first // copies]}: {failures[first]} ({len(failures)} of {len(names) * copies} {what} failed)"
        raise BatchError(text, errors=failures, completions=[])  # the stream has the completions
