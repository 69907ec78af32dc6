"""Recipes: what goes into a pack besides the model. One definition for TOML, the command
line and the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from runtime_stub.engine.kv import KV_TYPES, NEEDS_FLASH_ATTENTION
from runtime_stub.errors import RecipeError
from runtime_stub.settings import Group, Setting, check

MODES = ("chat", "serve")


SAMPLING: dict[str, Setting] = {
    "temperature": Setting(float, "0 always takes the most likely token", 0, 10),
    "top_k": Setting(int, "only the K most likely tokens; 0 for all", 0, 1_000_000),
    "top_p": Setting(float, "only the most likely tokens that make up this probability", 0, 1),
    "min_p": Setting(float, "only tokens this likely relative to the best", 0, 1),
    "repeat_penalty": Setting(float, "above 1 discourages repetition", 0.01, 10),
    "frequency_penalty": Setting(float, "discourages frequent tokens", -10, 10),
    "presence_penalty": Setting(float, "discourages tokens that occurred", -10, 10),
    "repeat_last_n": Setting(
        int, "how many tokens the penalties look back; -1 for all", -1, 1_000_000
    ),
    "seed": Setting(int, "the same seed gives the same answer", 0, 2**32 - 1),
}

ENGINE: dict[str, Setting] = {
    "kv": Setting(str, "how keys and values are kept", choices=tuple(KV_TYPES)),
    "flash_attention": Setting(bool, "whether attention is computed in one piece"),
    "threads": Setting(int, "threads that generate", 1, 512),
    "prompt_threads": Setting(int, "threads that read prompts", 1, 512),
    "batch": Setting(int, "prompt tokens read per step", 16, 8192),
    "repack": Setting(bool, "whether weights are put into an order that suits the processor"),
}
"""How to compute. What is left open, each machine finds for itself."""

SERVER: dict[str, Setting] = {
    "host": Setting(str, "address to listen on"),
    "port": Setting(int, "port to listen on; 0 takes a free one", 0, 65535),
}

FACE: dict[str, Setting] = {
    "greeting": Setting(str, "what a chat shows before the first question"),
    "starters": Setting(
        list,
        "questions to start with, at most 8",
        maximum=8,
        pattern=r"\s*\S[\s\S]{0,499}",
        form="questions of at most 500 characters",
    ),
    "icon": Setting(
        str,
        "one to eight characters, such as an emoji, or a picture",
        pattern=r"\S{1,8}|data:image/(?:png|jpeg|webp|svg\+xml);base64,[A-Za-z0-9+/=]{1,50000}",
        form="one to eight characters, or a picture",
    ),
    "accent": Setting(
        str, "colour such as #2f6f4e", pattern="#[0-9a-fA-F]{6}", form="a colour such as #2f6f4e"
    ),
}
"""How a pack presents itself, in the terminal and in the browser."""

TOP: dict[str, Setting] = {
    "name": Setting(str, "the assistant's name"),
    "mode": Setting(str, "what the pack does when started without a command", choices=MODES),
    "system": Setting(str, "system prompt"),
    "template": Setting(str, "Jinja chat template, instead of the model's own"),
    "context": Setting(int, "context in tokens, instead of what the machine allows", 64, 2**31 - 1),
    "max_tokens": Setting(int, "longest answer in tokens", 1, 2**31 - 1),
    "drafts": Setting(bool, "whether tokens are guessed ahead where that saves time"),
    "signed_by": Setting(str, "public key that must have signed the pack, or it does not start"),
}

_NAME = r"[^\s:@/\\]{1,100}"
_NAME_FORM = "a name without spaces and : @ / \\"

MODEL: dict[str, Setting] = {
    "name": Setting(str, "what requests call it", pattern=_NAME, form=_NAME_FORM),
    **{key: TOP[key] for key in ("system", "template", "context", "max_tokens", "drafts")},
}
"""One of several models. What it leaves open is as the recipe says for all."""

ADAPTER: dict[str, Setting] = {
    "name": Setting(str, "what requests call it", pattern=_NAME, form=_NAME_FORM),
    "scale": Setting(float, "how strongly it changes the model; 1 as it was trained", -100, 100),
    "apply": Setting(
        str, "only when a request asks for it, or unless one says no", choices=("asked", "always")
    ),
}
"""A LoRA adapter of a model."""

EXAMPLE: dict[str, Setting] = {
    "user": Setting(str, "what somebody asks"),
    "assistant": Setting(str, "what is answered"),
}
"""An exchange that every conversation begins with."""

_ENTRY = {"entry": Setting(str, "the bundle's entry that it is")}

PACKING: dict[str, Setting] = {
    "model": Setting(str, "the GGUF file, relative to the recipe"),
    "draft": Setting(str, "a small GGUF file that guesses ahead for it, relative to the recipe"),
    "storage": Setting(
        str, "how the model is stored", choices=("auto", "mapped", "compressed", "sidecar")
    ),
    "warm": Setting(bool, "whether the system prompt is read while packing"),
    "output": Setting(str, "the pack to write, relative to the recipe"),
}
"""Keys that only matter while packing; they do not travel in the pack."""

FILE: dict[str, Setting] = {"file": Setting(str, "the GGUF file, relative to the recipe")}
"""Key of every model and adapter in a list, that only matters while packing."""

TABLES: dict[str, dict[str, Setting]] = {
    "sampling": SAMPLING,
    "engine": ENGINE,
    "server": SERVER,
    "face": FACE,
}


_OF_MODELS = ("sampling", "engine")
"""Tables that each of several models may have, too."""


def _group(
    top: Mapping[str, Setting], model: Mapping[str, Setting], adapter: Mapping[str, Setting]
) -> Group:
    adapters = Group({**adapter, **ADAPTER})
    examples = Group(EXAMPLE)
    models = Group(
        {**model, **MODEL},
        {table: TABLES[table] for table in _OF_MODELS},
        {"adapters": adapters, "examples": examples},
    )
    lists = {"models": models, "adapters": adapters, "examples": examples}
    return Group({**top, **TOP}, TABLES, lists)


TRAVELLING = _group({}, _ENTRY, _ENTRY)
"""A recipe as it travels in the pack."""
WRITTEN = _group(PACKING, {**FILE, "storage": PACKING["storage"], "draft": PACKING["draft"]}, FILE)
"""A recipe as people write it."""


_MODEL_KEYS = (*MODEL, *_ENTRY)
_ADAPTER_KEYS = (*ADAPTER, *_ENTRY)
RESERVED_NAMES = ("default", "latest", "base")
"""Words that requests use for something else than a model or adapter of that name."""


@dataclass(frozen=True)
class AdapterRecipe:
    """A LoRA adapter that a request may choose."""

    name: str
    scale: float = 1.0
    apply: str = "asked"
    """"asked", or "always" for one that works unless a request chooses otherwise."""
    entry: str = "adapter"
    """The bundle's entry."""


@dataclass(frozen=True)
class Example:
    """An exchange that every conversation begins with, unseen."""

    user: str
    assistant: str


@dataclass(frozen=True)
class ModelRecipe:
    """One model of a pack, and what holds for it. None means: not decided here."""

    name: str
    system: str | None = None
    template: str | None = None
    context: int | None = None
    max_tokens: int | None = None
    drafts: bool | None = None
    sampling: Mapping[str, float | int] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Values by the keys of ENGINE."""
    adapters: tuple[AdapterRecipe, ...] = ()
    examples: tuple[Example, ...] = ()
    entry: str = "model"
    """The bundle's entry."""


@dataclass(frozen=True)
class Recipe:
    """The part of a recipe that travels in the pack. None means: not decided here."""

    name: str
    mode: str = "chat"
    system: str | None = None
    template: str | None = None
    context: int | None = None
    max_tokens: int | None = None
    drafts: bool | None = None
    signed_by: str | None = None
    sampling: Mapping[str, float | int] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    server: Mapping[str, str | int] = field(default_factory=dict)
    face: Mapping[str, Any] = field(default_factory=dict)
    """Texts by the keys of FACE; "starters" is a list of them."""
    examples: tuple[Example, ...] = ()
    adapters: tuple[AdapterRecipe, ...] = ()
    """Of the only model."""
    models: tuple[ModelRecipe, ...] = ()
    """Where there are several."""

    def document(self) -> dict[str, Any]:
        """The recipe as plain data for the manifest, without what is not decided."""
        values = {**_document(self, (*TOP, *TABLES)), **_examples_document(self.examples)}
        if self.adapters:
            values["adapters"] = [_document(item, _ADAPTER_KEYS) for item in self.adapters]
        if self.models:
            values["models"] = [_model_document(model) for model in self.models]
        return values

    def each_model(self) -> tuple[ModelRecipe, ...]:
        """What holds for each model, with what it leaves open as the recipe says for all."""
        common = ModelRecipe(
            self.name,
            system=self.system,
            template=self.template,
            context=self.context,
            max_tokens=self.max_tokens,
            drafts=self.drafts,
            sampling=self.sampling,
            engine=self.engine,
            adapters=self.adapters,
            examples=self.examples,
        )
        if not self.models:
            return (common,)
        return tuple(
            replace(
                model,
                system=common.system if model.system is None else model.system,
                template=common.template if model.template is None else model.template,
                context=model.context or common.context,
                max_tokens=model.max_tokens or common.max_tokens,
                drafts=common.drafts if model.drafts is None else model.drafts,
                examples=model.examples or common.examples,
                sampling={**common.sampling, **model.sampling},
                engine={**common.engine, **model.engine},
            )
            for model in self.models
        )


def recipe_from(document: Mapping[str, Any], where: str) -> Recipe:
    """Check plain data from `where` and make a recipe of it. Raises RecipeError."""
    return make_recipe(check(document, TRAVELLING, where), where)


def make_recipe(values: Mapping[str, Any], where: str) -> Recipe:
    """A recipe of checked values; keys that do not travel are left out. Raises RecipeError for
    names that are missing or taken."""
    recipe = {key: value for key, value in values.items() if key in TOP or key in TABLES}
    models = values.get("models", ())
    adapters = values.get("adapters", ())
    if models and adapters:
        raise RecipeError(
            f"{where}: adapters belong to one of the models", "Write [[models.adapters]] below it"
        )
    made = Recipe(
        **{"name": "assistant", **recipe},
        adapters=_adapters(adapters, where),
        examples=_examples(values, where),
        models=tuple(
            ModelRecipe(
                **{key: item[key] for key in (*_MODEL_KEYS, *_OF_MODELS) if key in item},
                adapters=_adapters(item.get("adapters", ()), where),
                examples=_examples(item, where),
            )
            for item in _named(models, "models", where)
        ),
    )
    for model in made.each_model():
        check_engine(model.engine, where)
    return made


def check_engine(values: Mapping[str, Any], where: str) -> None:
    """Raise RecipeError where values of ENGINE contradict each other."""
    kv = values.get("kv")
    if kv and KV_TYPES[kv].quantised and values.get("flash_attention") is False:
        problem, hint = NEEDS_FLASH_ATTENTION
        raise RecipeError(f"{where}: {problem.format(kv=kv)}", hint)


def _adapters(items: Sequence[Mapping[str, Any]], where: str) -> tuple[AdapterRecipe, ...]:
    return tuple(
        AdapterRecipe(**{key: item[key] for key in _ADAPTER_KEYS if key in item})
        for item in _named(items, "adapters", where)
    )


def _examples(values: Mapping[str, Any], where: str) -> tuple[Example, ...]:
    found = values.get("examples", ())
    for number, item in enumerate(found, start=1):
        for key in EXAMPLE:
            if key not in item:
                raise RecipeError(f"{where}, [[examples]] {number}: it has no {key}")
    return tuple(Example(item["user"], item["assistant"]) for item in found)


def _examples_document(examples: Sequence[Example]) -> dict[str, Any]:
    found = [{key: getattr(example, key) for key in EXAMPLE} for example in examples]
    return {"examples": found} if found else {}


def _named(
    items: Sequence[Mapping[str, Any]], kind: str, where: str
) -> Sequence[Mapping[str, Any]]:
    names = [item.get("name") for item in items]
    for number, name in enumerate(names):
        if name is None:
            raise RecipeError(f"{where}, [[{kind}]] {number + 1}: it has no name")
        if name in names[:number] or name in RESERVED_NAMES:
            raise RecipeError(f"{where}, [[{kind}]] {number + 1}: the name {name!r} is taken")
    return items


def _document(item: Any, keys: Sequence[str]) -> dict[str, Any]:
    values = {key: getattr(item, key) for key in keys}
    return {
        key: dict(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value not in (None, {})
    }


def _model_document(model: ModelRecipe) -> dict[str, Any]:
    values = {
        **_document(model, (*_MODEL_KEYS, *_OF_MODELS)),
        **_examples_document(model.examples),
    }
    if model.adapters:
        values["adapters"] = [_document(item, _ADAPTER_KEYS) for item in model.adapters]
    return values
