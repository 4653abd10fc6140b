"""The app's files: those of pellucid.page, as they are."""

from __future__ import annotations

import re

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pellucid.page.html import static

__all__ = ["Ui"]

_NAME = re.compile(r"(?:vendor/)?[a-z]+\.(js|css)")
_KINDS = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Ui:
    """Static files only: the app requests what it shows like any other client."""

    async def index(self, request: Request) -> Response:
        return Response(static("index.html"), headers=_HEADERS, media_type="text/html; charset=utf-8")

    async def file(self, request: Request) -> Response:
        name = request.path_params["name"]
        found = _NAME.fullmatch(name)
        try:
            if found is None:
                raise FileNotFoundError
            return Response(static(name), headers=_HEADERS, media_type=_KINDS[found[1]])
        except FileNotFoundError:
            raise HTTPException(404) from None
