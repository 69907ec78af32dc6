"""What Ollama's lists and descriptions say of a model that is served."""

from __future__ import annotations

import time
from datetime import datetime, timezone

from runtime_stub.server.ollama_types import Details, Model, Running, Show
from runtime_stub.server.state import Served

NEVER = "9999-12-31T23:59:59Z"
"""When a model is unloaded that stays."""
_PARAMETERS = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "repeat_last_n", "seed")


def tagged(name: str) -> str:
    """The name with a tag, without which clients do not find it in a list."""
    return name if ":" in name else f"{name}:latest"


def list_entry(served: Served) -> Model:
    """Its entry among the models that there are."""
    name = tagged(served.name)
    return Model(
        name=name,
        model=name,
        modified_at=timestamp(served.created),
        size=served.size,
        digest=served.sha256,
        details=_details(served),
    )


def running_entry(served: Served) -> Running | None:
    """Its entry among the models that are loaded, None while it is not."""
    facts = served.engine.facts
    if facts is None or served.engine.status.state != "ready":
        return None
    name = tagged(served.name)
    left = served.engine.unloads_in
    return Running(
        name=name,
        model=name,
        size=served.size,
        digest=served.sha256,
        details=_details(served),
        expires_at=NEVER if left is None else timestamp(time.time() + max(0.0, left)),
        size_vram=0,
        context_length=facts.context,
    )


def description(served: Served) -> Show:
    """All that there is to say of it."""
    details = _details(served)
    architecture = details.family
    numbers = {
        "general.parameter_count": served.details.get("parameters"),
        f"{architecture}.context_length": served.details.get("context_length"),
        f"{architecture}.embedding_length": served.details.get("embedding_length"),
        f"{architecture}.block_count": served.details.get("layers"),
        f"{architecture}.vocab_size": served.details.get("vocabulary"),
    }
    known = {key: number for key, number in numbers.items() if number}
    licence = served.details.get("licence", {})
    return Show(
        modified_at=timestamp(served.created),
        details=details,
        model_info={"general.architecture": architecture, **known},
        capabilities=_capabilities(served),
        parameters=_parameters(served),
        template=served.template or "",
        system=served.defaults.system or "",
        license=licence.get("license") or licence.get("license.name") or "",
    )


def timestamp(seconds: float) -> str:
    """Seconds since 1970, as RFC 3339 writes them."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _details(served: Served) -> Details:
    family = str(served.details.get("architecture") or "")
    return Details(
        family=family,
        families=[family] if family else [],
        parameter_size=_size(served.details.get("parameters") or 0),
        quantization_level=str(served.details.get("quantization") or ""),
    )


def _capabilities(served: Served) -> list[str]:
    """What it is for, loaded or not."""
    if served.details.get("embedding"):
        return ["embedding"]
    thinks = bool(served.details.get("reasoning"))
    if served.template:
        from runtime_stub.engine.families import reasons

        thinks = reasons(served.template)
    return ["completion", "tools", *(["thinking"] if thinks else [])]


def _size(parameters: int) -> str:
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.1f}{letter}"
    return str(parameters)


def _parameters(served: Served) -> str:
    sampling = served.defaults.sampling
    values = {name: getattr(sampling, name) for name in _PARAMETERS}
    values["num_predict"] = served.defaults.max_tokens
    values["num_ctx"] = served.engine.facts.context if served.engine.facts else None
    return "\n".join(
        f"{name:<30} {value}" for name, value in sorted(values.items()) if value is not None
    )
