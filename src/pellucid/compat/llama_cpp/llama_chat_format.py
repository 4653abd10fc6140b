"""Chat formats: that of the model, or a template. Handlers of chats, such as those of images, are not supported."""

from __future__ import annotations

from typing import Any

__all__ = ["TEMPLATES", "Jinja2ChatFormatter", "Llava15ChatHandler"]

# Named formats, as templates in Jinja.
TEMPLATES = {
    "chatml": (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}


class Jinja2ChatFormatter:
    """A template is given to the model itself."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        raise NotImplementedError("Jinja2ChatFormatter is not supported: give the template with Llama(template=...)")


class _Handler:
    """Reads images, which is not supported."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        raise NotImplementedError(f"{type(self).__name__}: models are run on text alone")


class Llava15ChatHandler(_Handler):
    pass


class Llava16ChatHandler(_Handler):
    pass


class MoondreamChatHandler(_Handler):
    pass


class NanoLlavaChatHandler(_Handler):
    pass


class MiniCPMv26ChatHandler(_Handler):
    pass


class Qwen25VLChatHandler(_Handler):
    pass
