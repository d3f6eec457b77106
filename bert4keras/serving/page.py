"""The page to try the routes, `page.html` with the routes in it."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bert4keras.serving.routes import Route

_TEMPLATE = Path(__file__).with_suffix(".html")


def make_page(routes: Sequence[Route]) -> tuple[str, dict[str, str]]:
    """Return the page for the routes, and headers that allow no other scripts in it."""
    template = _TEMPLATE.read_text(encoding="utf-8")
    # Within <script> this is the only character that could end it.
    data = json.dumps(list(map(_describe, routes)), ensure_ascii=False).replace("<", "\\u003c")
    policy = (
        f"default-src 'none'; script-src '{_hash(template, 'script')}'; "
        f"style-src '{_hash(template, 'style')}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
    return template.replace("ROUTES", data, 1), headers


def _describe(route: Route) -> dict[str, Any]:
    return {
        "path": route.path,
        "method": route.method,
        "description": route.description,
        "arguments": [
            {
                "name": argument.name,
                "required": argument.required,
                "type": argument.type_name,
                "is_text": argument.schema.get("type") == "string",
            }
            for argument in route.arguments.values()
        ],
    }


def _hash(template: str, tag: str) -> str:
    """Return the hash of the content of a tag, by which the policy allows it."""
    content = re.search(f"<{tag}>(.*?)</{tag}>", template, re.S)[1]
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
