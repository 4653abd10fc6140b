"""The fields of a request: those that are supported, those that are refused, those that are ignored.

A field that would change the answer is supported or refused, never ignored. The library checks the values of its own
options; those of a request as a whole are checked here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pellucid import checks
from pellucid.errors import WrongType, WrongValue
from pellucid.openai.limits import Limits, Rules
from pellucid.openai.refusal import INSTEAD, OF_CHATS, OF_COMPLETIONS, REFUSED, WITHOUT_EFFECT, check_known, refused
from pellucid.openai.structured import take_structure

__all__ = [
    "ALIASES",
    "EVERYTHING",
    "OPTIONS",
    "Call",
    "Fields",
    "chat_call",
    "completion_call",
    "message_of",
    "tool_fields",
    "unknown",
]

MOST_WEIGHT = 100  # of penalties and biases
MOST_SEED = 2**64
EVERYTHING = 2**31 - 1

# Options of the library that have the same name here.
OPTIONS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "repeat_last",
    "presence_penalty",
    "frequency_penalty",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_range",
    "dry_breakers",
    "top_n_sigma",
    "xtc_probability",
    "xtc_threshold",
    "dynatemp_range",
    "dynatemp_exponent",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "samplers",
    "stop_ids",
    "ignore_eos",
    "speculate",
)
WEIGHTS = ("repeat_penalty", "presence_penalty", "frequency_penalty", "dry_multiplier")
ALIASES = {
    "repeat_last_n": "repeat_last",
    "dry_penalty_last_n": "dry_range",
    "dry_sequence_breakers": "dry_breakers",
    "repetition_penalty": "repeat_penalty",
    "stop_token_ids": "stop_ids",
}
LISTS = ("dry_breakers", "samplers", "stop_ids")
MOST_LISTED = 256


@dataclass(slots=True)
class Call:
    """A parsed request. prompts: of completions. options: of the library. logprobs: None: none are wanted.
    names: the client's names of options, by ours; and of the field that is too long, by that error's code. ignored:
    fields that had no effect."""

    model: str | None
    n: int = 1
    stream: bool = False
    usage: bool = False
    priority: int | None = None
    logprobs: int | None = None
    echo: bool = False
    token_ids: bool = False  # whether a completion has them beside its text
    salt: str = ""  # requests share the prefix cache only with requests that have the same salt
    messages: Any = None
    plain: str | None = None  # in place of messages, if the model has no chat template
    prompts: list[Any] = field(default_factory=list)
    listed: bool = False  # prompts are a list in the request, too
    options: dict[str, Any] = field(default_factory=dict)
    template: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)  # for the endpoint's own use

    def name_places(self, messages: Sequence[str], schema: str = "") -> None:
        """Records where the client wrote the fields from which messages and tools were made. messages: the place of
        each. schema: that of a function's parameters within its tool; "": as in chats."""
        for i, place in enumerate(messages):
            self.names[f"messages[{i}]"] = place
            if not place.endswith("]"):  # a text, of which a message was made
                self.names[f"messages[{i}]['content']"] = place
        for i in range(len(self.template.get("tools", ())) if schema else 0):
            self.names[f"tools[{i}]['function']"] = f"tools[{i}]"
            self.names[f"tools[{i}]['function']['parameters']"] = f"tools[{i}]{schema}"


class Fields:
    """Takes fields out of a request; null is as if a field were absent."""

    def __init__(self, body: dict[str, Any], limits: Limits) -> None:
        self.rest = {name: value for name, value in body.items() if value is not None}
        self.limits = limits

    def take(self, name: str, default: Any = None) -> Any:
        return self.rest.pop(name, default)

    def integer(self, name: str, low: int, high: int, default: int) -> int:
        value = self.take(name, default)
        return checks.integer(name, value, low, high)

    def flag(self, name: str, default: bool = False) -> bool:
        return checks.flag(name, self.take(name, default))

    def refuse(self, names: Mapping[str, tuple[Any, ...]], instead: Mapping[str, str] = INSTEAD) -> None:
        """Takes fields that are not supported. names: each with the values that change nothing. instead: what to send
        in place of some. Raises Refused."""
        for name, harmless in names.items():
            if name in self.rest and self.take(name) not in harmless:
                better = f": expected {instead[name]} in its place" if name in instead else ""
                raise refused(name, f" is not supported{better}", "unsupported_field")


def unknown(name: str, given: Mapping[str, Any], *known: str) -> list[str]:
    """The unknown keys of an object among the fields."""
    return [f"{name}.{key}" for key, value in given.items() if key not in known and value is not None]


def chat_call(body: dict[str, Any], settings: Rules) -> Call:
    """A request for a chat completion. Raises WrongValue or WrongType naming the field."""
    fields, limits = Fields(body, settings.limits), settings.limits
    call = _common(fields)
    messages = fields.take("messages")
    if not isinstance(messages, list):
        raise WrongType("messages", ": expected a list of messages")
    if len(messages) > limits.messages:
        raise WrongValue("messages", f" has {len(messages)} entries: expected at most {limits.messages}")
    call.messages = [message_of(message) for message in messages]
    if fields.flag("logprobs"):
        call.logprobs = fields.integer("top_logprobs", 0, limits.top_logprobs, 0)
    elif fields.take("top_logprobs", 0) != 0:
        raise WrongValue("top_logprobs", ": expected logprobs to be true beside it")
    call.names["logprobs"] = "top_logprobs"
    _template(fields, call)
    _finish(fields, call, settings)
    return call


def completion_call(body: dict[str, Any], settings: Rules) -> Call:
    """A request for completions of prompts. Raises as `chat_call`."""
    fields, limits = Fields(body, settings.limits), settings.limits
    call = _common(fields)
    prompt = fields.take("prompt", "")
    call.names["context_length_exceeded"] = "prompt"
    several = isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], (str, list))
    call.prompts, call.listed = prompt if several else [prompt], several
    if prompt == []:
        raise WrongValue("prompt", " is empty: expected at least one prompt")
    if len(call.prompts) > limits.prompts:
        raise WrongValue("prompt", f" has {len(call.prompts)} prompts: expected at most {limits.prompts}")
    for i, one in enumerate(call.prompts):
        if not isinstance(one, (str, list)):
            place = f"[{i}]" if several else ""
            raise WrongType("prompt", f"{place}: expected a text or a list of token ids, not {type(one).__name__}")
        if one == []:
            raise WrongValue("prompt", f"[{i}] is empty: expected at least one token")
    if "logprobs" in fields.rest:
        value = fields.take("logprobs")
        if value is not False:  # False is as absent; some clients send it to both endpoints
            call.logprobs = checks.integer("logprobs", value, 0, limits.top_logprobs)
    call.echo = fields.flag("echo")
    call.token_ids = fields.flag("return_token_ids")
    most = max(limits.waiting, limits.n, limits.prompts)
    if len(call.prompts) * call.n > most:
        every = f"{len(call.prompts)} prompts and {call.n} choices of each"
        raise refused("n", f": expected at most {most} choices in all, not {every}")
    _finish(fields, call, settings)
    return call


def _common(fields: Fields) -> Call:
    """Reads the fields that both endpoints have."""
    limits = fields.limits
    model = fields.take("model")
    call = Call(None if model is None else checks.string("model", model))
    call.n = fields.integer("n", 1, limits.n, 1)
    call.stream = fields.flag("stream")
    stream_options = fields.take("stream_options")
    if stream_options is not None:
        if not isinstance(stream_options, dict):
            raise WrongType("stream_options", ": expected an object")
        call.usage = checks.flag("stream_options.include_usage", stream_options.get("include_usage") or False)
        if not call.stream:
            raise WrongValue("stream_options", ": expected stream to be true beside it")
    call.salt = checks.string("cache_salt", fields.take("cache_salt", ""))
    if "priority" in fields.rest:
        call.priority = fields.integer("priority", -(2**31), 2**31, 0)
    options = call.options
    for name in OPTIONS:
        if name in fields.rest:
            options[name] = fields.take(name)
    _aliases(fields, call)
    for name in WEIGHTS:
        if name in options:
            low = 0.0 if name in ("repeat_penalty", "dry_multiplier") else -MOST_WEIGHT
            checks.number(call.names.get(name, name), options[name], low, MOST_WEIGHT)
    for name in LISTS:
        given = options.get(name)
        if isinstance(given, (list, str)) and len(given) > MOST_LISTED:
            shown = call.names.get(name, name)
            raise WrongValue(shown, f" has {len(given)} entries: expected at most {MOST_LISTED}")
    take_structure(fields.rest, options, call.names)
    _max_tokens(fields, call)
    _seed_stop_bias(fields, options, limits)
    _prediction(fields, options)
    return call


def _aliases(fields: Fields, call: Call) -> None:
    """Reads other programs' names for the same fields."""
    for name, ours in ALIASES.items():
        if name in fields.rest:
            if ours in call.options:
                raise refused(name, f": given beside {ours}, which is the same")
            value = fields.take(name)
            call.options[ours] = EVERYTHING if (name, value) == ("repeat_last_n", -1) else value
            call.names[ours] = name
    if call.names.get("repeat_penalty") == "repetition_penalty":
        call.options.setdefault("repeat_last", EVERYTHING)  # of all tokens, as elsewhere


def _max_tokens(fields: Fields, call: Call) -> None:
    new, old, predicted = (fields.take(name) for name in ("max_completion_tokens", "max_tokens", "n_predict"))
    if predicted is not None:  # llama-server's, where -1 is no limit
        if old is not None or new is not None:
            raise refused("n_predict", ": given beside max_tokens, which is the same")
        old = None if predicted == -1 else predicted
        call.names["max_tokens"] = "n_predict"
    if new is not None and old is not None and new != old:
        raise refused("max_tokens", f"={checks.shown(old)}: differs from max_completion_tokens")
    if new is not None:
        call.names["max_tokens"] = "max_completion_tokens"
    call.options["max_tokens"] = old if new is None else new  # None: the rest of the context
    call.options["on_full"] = "stop"


def _seed_stop_bias(fields: Fields, options: dict[str, Any], limits: Limits) -> None:
    seed = fields.take("seed")
    if seed is not None:  # OpenAI's seeds are signed
        options["seed"] = checks.integer("seed", seed, -(2**63), MOST_SEED - 1) % MOST_SEED
    stop = fields.take("stop")
    if stop is not None:
        texts = [stop] if isinstance(stop, str) else stop
        if not isinstance(texts, list):
            raise WrongType("stop", ": expected a string or a list of strings")
        if len(texts) > limits.stop:
            raise WrongValue("stop", f" has {len(texts)} strings: expected at most {limits.stop}")
        for i, text in enumerate(texts):
            if len(checks.string("stop", text, at=f"[{i}]")) > limits.stop_characters:
                raise WrongValue("stop", f"[{i}] has more than {limits.stop_characters} characters")
        options["stop"] = [text for text in texts if text]  # some clients send "" for none
    bias = fields.take("logit_bias")
    if bias is not None:
        options["logit_bias"] = _logit_bias(bias, limits)


def _logit_bias(bias: Any, limits: Limits) -> dict[int, float]:
    if not isinstance(bias, dict):
        raise WrongType("logit_bias", ": expected an object of token ids and numbers")
    if len(bias) > limits.logit_bias:
        raise WrongValue("logit_bias", f" has {len(bias)} entries: expected at most {limits.logit_bias}")
    found = {}
    for key, value in bias.items():
        if not (key.isascii() and key.isdigit() and len(key) < 11):
            raise WrongValue("logit_bias", f"'s key {checks.shown(key)}: expected a token id")
        found[int(key)] = checks.number("logit_bias", value, -MOST_WEIGHT, MOST_WEIGHT, at=f"[{key}]")
    return found


def _prediction(fields: Fields, options: dict[str, Any]) -> None:
    """What the answer is expected to resemble, in OpenAI's form."""
    given = fields.take("prediction")
    if given is None:
        return
    if not isinstance(given, dict):
        raise WrongType("prediction", ': expected an object, {"type": "content", "content": ...}')
    if given.get("type") != "content":
        raise WrongValue("prediction", f".type={checks.shown(given.get('type'))}: expected 'content'")
    content = given.get("content")
    if not isinstance(content, list):
        options["prediction"] = checks.string("prediction", content, at=".content")
        return
    texts = []
    for i, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text":
            raise WrongType("prediction", f'.content[{i}]: expected {{"type": "text", "text": ...}}')
        texts.append(checks.string("prediction", part.get("text"), at=f".content[{i}].text"))
    options["prediction"] = "".join(texts)


def message_of(message: Any) -> Any:
    """A message as templates expect it: without null values and those keys of OpenAI's that say nothing. An assistant's
    refusal becomes its content; functions of OpenAI's older interface become tools."""
    if not isinstance(message, dict):
        return message  # the library names its place
    made = {k: v for k, v in message.items() if v is not None or k in ("role", "content")}
    if made.get("role") == "function":
        made["role"] = "tool"
    if made.get("role") == "assistant":
        older = made.pop("function_call", None)
        if older is not None and not made.get("tool_calls"):
            made["tool_calls"] = [{"type": "function", "function": older}]
        said, content = made.pop("refusal", None), made.get("content")
        if isinstance(said, str) and content is None:
            made["content"] = said
        elif isinstance(content, list):
            made["content"] = [_refusal_as_text(part) for part in content]
    return made


def _refusal_as_text(part: Any) -> Any:
    if isinstance(part, dict) and part.get("type") == "refusal":
        return {"type": "text", "text": part.get("refusal")}
    return part


def _template(fields: Fields, call: Call) -> None:
    variables = fields.take("chat_template_kwargs")
    if variables is not None and not isinstance(variables, dict):
        raise WrongType("chat_template_kwargs", ": expected an object")
    call.names["variables"] = "chat_template_kwargs"
    effort = fields.take("reasoning_effort")
    if effort is not None:
        call.template["reasoning_effort"] = checks.string("reasoning_effort", effort)
    budget, same = fields.take("thinking_budget"), fields.take("thinking_token_budget")
    if budget is not None and same is not None and budget != same:
        raise refused("thinking_token_budget", f"={checks.shown(same)}: differs from thinking_budget")
    if budget is not None or same is not None:
        call.names["thinking_budget"] = "thinking_token_budget" if budget is None else "thinking_budget"
        call.template["thinking_budget"] = same if budget is None else budget
    if variables:
        call.template["variables"] = dict(variables)
    documents = fields.take("documents")
    if documents is not None:
        call.template["documents"] = documents
    if not fields.flag("add_generation_prompt", True):
        call.template["add_generation_prompt"] = False
    tool_fields(fields, call)


def tool_fields(fields: Fields, call: Call) -> None:
    """The tools that the model may call, and whether it must."""
    tools, choice = fields.take("tools"), fields.take("tool_choice")
    parallel = fields.take("parallel_tool_calls")
    if tools is not None:
        if not isinstance(tools, list):
            raise WrongType("tools", f": expected a list of tools, not {type(tools).__name__}")
        if len(tools) > fields.limits.tools:
            raise WrongValue("tools", f" has {len(tools)} entries: expected at most {fields.limits.tools}")
        for i, one in enumerate(tools):
            if not isinstance(one, dict):
                raise WrongType("tools", f"[{i}]: expected an object, not {type(one).__name__}")
    if parallel is not None:
        call.template["parallel_tool_calls"] = checks.flag("parallel_tool_calls", parallel)
    if choice is not None:
        call.template["tool_choice"] = choice
    if tools:
        call.template["tools"] = tools
    elif choice not in (None, "none", "auto"):
        raise refused("tool_choice", f"={checks.shown(choice)}: expected tools beside it")


def _finish(fields: Fields, call: Call, settings: Rules) -> None:
    """Refuses the remaining fields, or notes them as ignored."""
    rest = fields.rest
    fields.refuse(REFUSED | (OF_COMPLETIONS if call.messages is None else OF_CHATS))
    if call.logprobs is not None:
        call.options["logprobs"] = max(call.logprobs, 1)
    call.ignored = sorted(rest)
    check_known(call.ignored, settings, WITHOUT_EFFECT)
