"""Fields that are refused."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from pellucid.errors import WrongValue
from pellucid.openai.limits import Rules

__all__ = [
    "INSTEAD",
    "OF_CHATS",
    "OF_COMPLETIONS",
    "OF_OTHERS",
    "REFUSED",
    "WITHOUT_EFFECT",
    "Refused",
    "check_known",
    "refused",
]

# Fields that would change the answer, and are not supported -> values that change nothing. null never does.
REFUSED: dict[str, tuple[Any, ...]] = {
    # OpenAI's
    "audio": (),
    "best_of": (1,),
    "function_call": ("none",),
    "functions": ([],),
    "modalities": (["text"],),
    "suffix": ("",),
    "web_search_options": (),
    # vLLM's and SGLang's
    "allowed_token_ids": (),
    "bad_words": ([],),
    "chat_template": (),
    "continue_final_message": (False,),
    "custom_logit_processor": (),
    "ebnf": (),
    "guided_whitespace_pattern": (),
    "include_reasoning": (True,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "min_tokens": (0,),
    "no_stop_trim": (False,),
    "prompt_embeds": ([],),
    "prompt_logprobs": (),
    "return_tokens_as_token_ids": (False,),
    "separate_reasoning": (True,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "stop_regex": ([],),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    # llama-server's
    "grammar_lazy": (False,),
    "grammar_triggers": ([],),
    "lora": ([],),
    "min_keep": (0,),
    "n_indent": (0,),
    "n_probs": (0,),
    "parse_tool_calls": (True,),
    "penalize_nl": (False,),
    "post_sampling_probs": (False,),
    "reasoning_format": ("auto", "deepseek"),
    "response_fields": ([],),
    "return_tokens": (False,),
    "t_max_predict_ms": (0, -1),
    "tfs_z": (1,),
    "top_a": (0,),
    # Fields that have another name here
    "format": ("",),
    "max_new_tokens": (),
    "max_output_tokens": (),
    "num_predict": (),
    "options": ({},),
    "repetition_penalty_range": (),
    "smoothing_factor": (0,),
    "stop_sequences": ([],),
    "system": ("", []),
    "pellucid_edits": (),  # the server's own chats and completions take it
}
# The same, for chats only.
OF_CHATS: dict[str, tuple[Any, ...]] = {
    "add_special_tokens": (False,),  # the template writes them
    "echo": (False,),
    "enable_thinking": (),
    "reasoning": ({},),
    "return_token_ids": (False,),
    "thinking": ({},),
}
OF_COMPLETIONS: dict[str, tuple[Any, ...]] = {"add_special_tokens": (True,), "messages": ([],)}
# Fields that are refused -> what is supported in their place, in chats and completions.
INSTEAD: dict[str, str] = {
    "enable_thinking": "chat_template_kwargs",
    "format": "response_format",
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "messages": "prompt, or a chat",
    "num_predict": "max_tokens",
    "options": "each of them as a field",
    "reasoning": "reasoning_effort",
    "repetition_penalty_range": "repeat_last",
    "stop_sequences": "stop",
    "system": "a message with the role 'system'",
    "thinking": "chat_template_kwargs or thinking_budget",
}
# Fields of OpenAI's chats, completions and embeddings that say nothing about the answer.
WITHOUT_EFFECT = frozenset(
    "metadata prompt_cache_key prompt_cache_retention safety_identifier service_tier store user".split()
)
# Fields of chats that the interfaces translated into chats have by another name, or not at all.
OF_OTHERS: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "documents": ([],),
    "logprobs": (False,),
    "max_completion_tokens": (),
    "max_tokens": (),
    "messages": (),
    "n": (1,),
    "n_predict": (),
    "parallel_tool_calls": (True,),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "stop": ([], ""),
    "thinking_budget": (),
    "thinking_token_budget": (),
    "top_logprobs": (0,),
}


class Refused(WrongValue):
    """A field that would change the answer and is not supported. ``code``: OpenAI's code for the reason, or None."""

    code: str | None = None


def refused(field: str, found: str, code: str | None = None) -> Refused:
    """The error for a field. found: follows its name, as in "=3: expected at most 2"."""
    error = Refused(field, found)
    error.code = code
    return error


def check_known(names: Sequence[str], rules: Rules, without_effect: Container[str] = ()) -> None:
    """Raises Refused for unknown fields if such are refused. names: fields that had no effect. without_effect: those of
    them that the interface has."""
    unknown = [name for name in names if name not in without_effect]
    if unknown and rules.strict:
        raise refused(unknown[0], ": unknown field", "unknown_field")
