"""The server about itself: health, metrics, settings and its OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anyio.to_thread
import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response

from runtime_stub import __version__
from runtime_stub.engine.messages import ModelFacts, Sampling
from runtime_stub.server.face import Face, Operation
from runtime_stub.server.openai_errors import ErrorReply, error_reply
from runtime_stub.server.page import START
from runtime_stub.server.replies import json
from runtime_stub.server.state import State, behind

_FRONT = """{name} is running.

It answers programs, under the addresses they expect of OpenAI (/v1), Ollama (/api) and
Anthropic (/v1/messages). /openapi.json describes them all, /health says whether it is ready.
"""


class Health(msgspec.Struct):
    """Whether it can answer."""

    status: str
    """"ok", "unloaded" (until somebody asks), "loading", "failed" or "closed"."""
    progress: float | UnsetType = UNSET
    """Of loading, from 0 to 1."""
    error: str | UnsetType = UNSET
    models: dict[str, str] | UnsetType = UNSET
    """What each of several models is doing, in the same words; "ready" for one that is loaded."""


class Modalities(msgspec.Struct):
    """What else than text is understood."""

    vision: bool = False
    audio: bool = False


class GenerationSettings(msgspec.Struct):
    """What holds where a request says nothing."""

    n_ctx: int
    """Tokens of context, shared by all slots; 0 while the model is loading."""
    params: Sampling
    system: str | None = None
    """The pack's system prompt."""
    max_tokens: int | None = None


class Props(msgspec.Struct):
    """Settings, in llama-server's shape as far as there is a counterpart."""

    model_alias: str
    total_slots: int
    default_generation_settings: GenerationSettings
    build_info: str
    modalities: Modalities
    model: ModelFacts | None
    """None until it is loaded."""


class AdapterEntry(msgspec.Struct):
    """A LoRA adapter of a model."""

    id: int
    """Its number, from 0, which requests may name it by."""
    name: str
    scale: float
    """How strongly it works where a request chooses nothing."""


class Slot(msgspec.Struct):
    """Room for one answer."""

    id: int
    model: str
    """The first of those that one engine answers for, with adapters and with other prompts."""
    is_processing: bool


def face(state: State, faces: Callable[[], Sequence[Face]]) -> Face:
    """The server's own operations. `faces` are what the OpenAPI document describes."""
    handlers = _Handlers(state, faces)
    return Face(
        name="Server",
        operations=(
            Operation(
                "GET", "/", handlers.front, "The web page for browsers, a few words for programs"
            ),
            Operation("GET", "/health", handlers.health, "Whether it can answer", None, Health),
            Operation("GET", "/metrics", handlers.metrics, "Metrics in Prometheus' format"),
            Operation("GET", "/props", handlers.props, "Settings", None, Props),
            Operation(
                "GET",
                "/lora-adapters",
                handlers.adapters,
                "A model's LoRA adapters",
                None,
                list[AdapterEntry],
            ),
            Operation("GET", "/slots", handlers.slots, "Slots", None, list[Slot]),
            Operation("GET", "/openapi.json", handlers.openapi, "This document", None, Any),
        ),
        shape=error_reply,
        error=ErrorReply,
    )


class _Handlers:
    def __init__(self, state: State, faces: Callable[[], Sequence[Face]]) -> None:
        self._state = state
        self._faces = faces

    async def front(self, http: HttpRequest) -> Response:
        page = self._state.page
        # Only browsers ask for it by name; programs are told in a few words.
        if page and page.files and "text/html" in http.headers.get("accept", ""):
            return page.reply(START, http)
        return PlainTextResponse(_FRONT.format(name=self._state.models[0].name))

    async def health(self, _http: HttpRequest) -> Response:
        engine = self._state.models[0].engine
        status = engine.status
        # Unloaded for lack of work, it is as able to answer as before.
        ready = status.state == "ready" or (status.state == "unloaded" and engine.facts is not None)
        health = Health("ok" if ready else status.state)
        if len(self._state.models) > 1:
            health.models = {model.name: model.engine.status.state for model in self._state.models}
        if status.state == "loading":
            health.progress = round(status.progress, 3)
        if status.message:
            health.error = status.message
        return json(health, 200 if ready else 503)

    async def metrics(self, _http: HttpRequest) -> Response:
        engine = self._state.models[0].engine
        ready = engine.status.state == "ready"
        context = engine.facts.context if engine.facts else 0

        def make() -> Response:
            from runtime_stub.server.metrics import CONTENT_TYPE, exposition

            text = exposition(self._state.tally, ready=ready, context=context)
            return Response(text, headers={"Content-Type": CONTENT_TYPE})

        return await anyio.to_thread.run_sync(make)

    async def props(self, http: HttpRequest) -> Response:
        model = self._state.resolve(http.query_params.get("model"))
        facts = model.engine.facts
        defaults = model.defaults
        settings = GenerationSettings(
            facts.context if facts else 0, defaults.sampling, defaults.system, defaults.max_tokens
        )
        build = f"satchel {__version__}"
        return json(Props(model.name, self._state.parallel, settings, build, Modalities(), facts))

    async def adapters(self, http: HttpRequest) -> Response:
        model = self._state.resolve(http.query_params.get("model"))
        return json(
            [
                AdapterEntry(number, adapter.name, adapter.scale if adapter.always else 0.0)
                for number, adapter in enumerate(model.adapters)
            ]
        )

    async def slots(self, _http: HttpRequest) -> Response:
        with self._state.tally.lock:
            used = set(self._state.tally.slots)
        names: dict[int, list[str]] = {}
        for model in self._state.models:
            names.setdefault(id(behind(model.engine)), []).append(model.name)
        return json(
            [
                Slot(number, sharing[0], any((name, number) in used for name in sharing))
                for sharing in names.values()
                for number in range(self._state.parallel)
            ]
        )

    async def openapi(self, _http: HttpRequest) -> Response:
        from runtime_stub.server.openapi import describe

        return json(await anyio.to_thread.run_sync(describe, self._faces()))
