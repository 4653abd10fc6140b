"""Ollama's interface: the endpoints that describe models."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pellucid import __version__
from pellucid.openai.fields import Fields
from pellucid.server.failures import failing
from pellucid.server.generate import read, whole
from pellucid.server.models import Hosted
from pellucid.server.ollama import take_model
from pellucid.server.service import Service
from pellucid.server.shapes import document, dumps
from pellucid.text.dialects import find, thinking

__all__ = ["Ollama"]

COMPATIBLE = "0.12.11"  # the version of Ollama whose interface this is; clients require a least version
LATE = "9999-12-31T23:59:59Z"  # when a model is unloaded that is kept


class Ollama:
    """The endpoints that describe models."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def version(self, request: Request) -> Response:
        return document({"version": COMPATIBLE, "pellucid": __version__})

    async def heartbeat(self, request: Request) -> Response:
        """What Ollama's own programs request first, without a key."""
        return Response("Pellucid is running", media_type="text/plain; charset=utf-8")

    async def tags(self, request: Request) -> Response:
        """The models, by all their names."""
        self._service.ready()
        return document({"models": [_listed(name, one) for one in self._service.models.all for name in one.names]})

    async def running(self, request: Request) -> Response:
        """The loaded models."""
        self._service.ready()
        return document({"models": [self._loaded(one) for one in self._service.models.all if one.model is not None]})

    def _loaded(self, one: Hosted) -> dict[str, Any]:
        keep = self._service.settings.keep_alive
        until = LATE
        if keep is not None:
            left = one.last + keep - time.monotonic() if not one.uses else keep
            until = datetime.fromtimestamp(time.time() + max(left, 0), UTC).isoformat().replace("+00:00", "Z")
        listed = _listed(one.name, one)
        del listed["modified_at"]
        return {**listed, "size": one.taken(), "size_vram": 0, "expires_at": until, "context_length": one.context}

    async def show(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Details of a model, which is loaded for that."""
        service, record = self._service, scope["state"]["record"]
        service.ready()
        body = await read(service, scope, receive)
        with failing(record.id, {}):
            fields = Fields(body, service.settings.limits)
            name, hosted = service.select(take_model(fields), record)
            async with service.models.use(hosted) as model:
                made = _shown(name, hosted)
                made["template"] = service.template(model) or ""
                if hosted.generates:
                    made["capabilities"] += ["completion", *_of_chats(made["template"])]
                if not hosted.generates or model.core.embedder.pooling is not None:
                    made["capabilities"].append("embedding")
        await whole(send, dumps(made))


def _details(one: Hosted) -> dict[str, Any]:
    """Empty for a model that was never loaded."""
    info = one.info
    if info is None:
        family, size, quantisation, form = "", "", "", ""
    else:
        family, quantisation, form = info.architecture, info.quantisation, info.format.partition(" ")[0]
        n = info.parameters
        size = f"{n / 1e9:.1f}B" if n >= 1e9 else f"{n / 1e6:.2f}M"
    return {
        "parent_model": "",
        "format": form.lower(),
        "family": family,
        "families": [family] if family else [],
        "parameter_size": size,
        "quantization_level": quantisation,
    }


def _listed(name: str, one: Hosted) -> dict[str, Any]:
    made = datetime.fromtimestamp(one.created, UTC).isoformat().replace("+00:00", "Z")
    size = one.nbytes if one.info is None else one.info.file_bytes
    found = {"name": name, "model": name, "modified_at": made, "size": size}
    digest = one.fingerprint.removeprefix("fp_")
    if not digest:  # never loaded; Ollama's programs show the first 12 characters
        digest = hashlib.blake2b(f"{one.name}\0{size}".encode("utf-8", "replace"), digest_size=8).hexdigest()
    return {**found, "digest": digest, "details": _details(one)}


def _shown(name: str, one: Hosted) -> dict[str, Any]:
    info = one.info
    assert info is not None  # it is loaded
    arch = info.architecture
    listed = _listed(name, one)
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": listed["details"],
        "model_info": {
            "general.architecture": arch,
            "general.name": info.name,
            "general.parameter_count": info.parameters,
            f"{arch}.context_length": info.context_trained,
            f"{arch}.embedding_length": info.dim,
            f"{arch}.block_count": info.layers,
            f"{arch}.feed_forward_length": info.ff,
            f"{arch}.attention.head_count": info.heads,
            f"{arch}.attention.head_count_kv": info.kv_heads,
            f"{arch}.vocab_size": info.vocab,
        },
        "capabilities": [],
        "modified_at": listed["modified_at"],
    }


def _of_chats(template: str) -> list[str]:
    """Capabilities that a chat template gives a model: clients offer tools only to models that declare them."""
    if not template:
        return []
    return ["tools", *(["thinking"] if thinking(find(template), template) is not None else [])]
