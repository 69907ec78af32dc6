"""What a pack says about itself: for `info`, `inspect` and `licenses`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime_stub import forecast
from runtime_stub.bundle import Bundle
from runtime_stub.console import bytes_text
from runtime_stub.environment import Launch
from runtime_stub.manifest import GGUF_KINDS, RAW
from runtime_stub.recipe import Recipe
from runtime_stub.signature import Verify, key_text, signer

_NOT_SET = ("", "0", "f", "false", "n", "no", "off")
"""What a variable says that is there and means nothing, as click reads it."""
LICENSES_FOLDER = "licenses"
"""Folder of the runtime that holds one file per component."""


def describe_bundle(bundle: Bundle, verify: Verify) -> dict[str, Any]:
    """Everything the manifest says, as plain data.

    `verify` checks the signature, if there is one. Raises SignatureError if it is not right.
    """
    signed_by = signer(bundle, verify)
    manifest = bundle.manifest
    return {
        "file": str(bundle.path),
        "kind": "pack" if bundle.of_kind("model") else "stub",
        "name": manifest.name,
        "size": bundle.footer.pack_size,
        "stub": {
            key: value
            for key, value in manifest.stub.items()
            if key not in ("architectures", "tensor_types", "contents")
        },
        "recipe": manifest.recipe,
        "features": list(manifest.features),
        "signed_by": None if signed_by is None else key_text(signed_by),
        "entries": [
            {
                "name": entry.name,
                "kind": entry.kind,
                "codec": entry.codec,
                "offset": entry.offset,
                "length": entry.length,
                "size": entry.size,
                "sha256": entry.sha256,
                "sidecar": entry.file,
                "requires": list(entry.requires),
                "metadata": entry.metadata,
            }
            for entry in manifest.entries
        ],
    }


def describe_pack(bundle: Bundle, recipe: Recipe, launch: Launch) -> dict[str, Any]:
    """The bundle, and how it runs on this machine."""
    from runtime_stub.confinement.confine import possible, turned_off
    from runtime_stub.engine.hardware import numa_nodes, read_hardware
    from runtime_stub.engine.library import cpu_variant
    from runtime_stub.engine.messages import EngineSettings
    from runtime_stub.models import packed_models
    from runtime_stub.openssl import verify_ed25519
    from runtime_stub.profiles import shelf_for

    hardware = read_hardware()
    models = packed_models(bundle, recipe) if bundle.of_kind("model") else ()
    forecasts = [
        forecast.forecast(
            model,
            hardware,
            shelf_for(bundle, model, EngineSettings(**model.recipe.engine), hardware),
        )
        for model in models
    ]
    off = launch.host_environment.get("SATCHEL_NO_SANDBOX", "").lower() not in _NOT_SET
    confinement = turned_off() if off else possible()
    return {
        **describe_bundle(bundle, verify_ed25519),
        "runtime": {"folder": str(launch.runtime), "cache": str(launch.cache_root)},
        "machine": {
            "physical_cores": hardware.physical_cores,
            "logical_cpus": hardware.logical_cpus,
            "memory_total": hardware.memory_total,
            "memory_available": hardware.memory_available,
            "memory_nodes": list(numa_nodes()),
            "cpu_variant": cpu_variant(),
        },
        "models": [dataclasses.asdict(found) for found in forecasts if found is not None],
        "sandbox": [dataclasses.asdict(part) for part in confinement.parts],
    }


def lines(document: dict[str, Any]) -> Iterator[str]:
    """A description for people."""
    stub = document["stub"]
    llama = stub.get("llama_cpp", {})
    yield f"{document['name'] or document['kind']}  ({bytes_text(document['size'])})"
    yield f"  file       {document['file']}"
    yield f"  platform   {stub.get('platform', '?')}, satchel {stub.get('satchel', '?')}"
    yield f"  signed by  {document.get('signed_by') or 'nobody'}"
    engine = f"llama.cpp {llama.get('commit', '?')}, llama-cpp-python {llama.get('python', '?')}"
    yield f"  engine     {engine}"
    for entry in document["entries"]:
        yield from _LINES_OF.get(entry["kind"], _no_lines)(entry)
    recipe = document["recipe"] or {}
    if recipe:
        yield f"  starts as  {recipe.get('mode', 'chat')}"
    for key in ("system", "context", "max_tokens", "sampling", "server"):
        if key in recipe:
            yield f"  {key:<10} {recipe[key]}"
    if "examples" in recipe:
        yield f"  examples   {len(recipe['examples'])}, at the beginning of every conversation"
    if document["kind"] == "pack":
        yield f"  drafts     {_drafts_text(recipe)}"
    for model in recipe.get("models", ()):
        yield f"  serves     {model['name']} (entry {model.get('entry', 'model')})"
        yield from _adapter_lines(model)
    yield from _adapter_lines(recipe)
    if "machine" in document:
        machine = document["machine"]
        yield f"  runtime    {document['runtime']['folder']}"
        yield (
            f"  machine    {machine['physical_cores']} cores, "
            f"{bytes_text(machine['memory_available'])} of "
            f"{bytes_text(machine['memory_total'])} memory free"
        )
        nodes = machine.get("memory_nodes", ())
        if len(nodes) > 1:
            yield (
                f"  memory     on {len(nodes)} nodes, each closer to some cores; weights lie where "
                "they were read first. Pinned to one that holds the model it may be faster: "
                f"numactl --cpunodebind={nodes[0]} --membind={nodes[0]}"
            )
        yield f"  processor  code for {machine['cpu_variant'] or 'unknown'}"
    for model in document.get("models", ()):
        yield from forecast.lines(model, several=len(document["models"]) > 1)
    if "sandbox" in document:
        yield from _sandbox_lines(document["sandbox"])
    yield "  contents"
    for entry in document["entries"]:
        how = "" if entry["codec"] == RAW else f" ({entry['codec']})"
        yield f"    {entry['name']:<22} {bytes_text(entry['length']):>10}{how}"


def _drafts_text(recipe: dict[str, Any]) -> str:
    if recipe.get("drafts") is False:
        return "off"
    return "on: what a text repeats is guessed ahead (--no-drafts turns it off)"


def _adapter_lines(recipe: dict[str, Any]) -> Iterator[str]:
    for adapter in recipe.get("adapters", ()):
        when = "unless a request says no" if adapter.get("apply") == "always" else "when asked for"
        yield f"  adapter    {adapter['name']}, {when}"


def _sandbox_lines(parts: list[dict[str, str]]) -> Iterator[str]:
    """What keeps `ask`, `chat` and `serve` in, and what is missing of it."""
    here = [part["name"] for part in parts if not part["missing"]]
    yield f"  sandbox    {', '.join(here) or 'none'}"
    reasons: dict[str, list[str]] = {}
    for part in parts:
        if part["missing"]:
            reasons.setdefault(part["missing"], []).append(part["name"])
    for reason, names in reasons.items():
        yield f"    not {', '.join(names)}: {reason}"


def _no_lines(_: dict[str, Any]) -> Iterator[str]:
    return iter(())


def _warm_lines(entry: dict[str, Any]) -> Iterator[str]:
    yield f"  warm       {entry['metadata'].get('tokens', 0):,} tokens of prompt are read already"


def _named(facts: dict[str, Any]) -> str:
    words = [facts.get("name"), facts.get("architecture"), facts.get("quantization")]
    return ", ".join(str(word) for word in words if word)


def _draft_lines(entry: dict[str, Any]) -> Iterator[str]:
    facts = entry["metadata"]
    yield f"  draft      {_named(facts)}: guesses ahead"
    if facts.get("memory_needed"):
        yield f"  memory     about {bytes_text(facts['memory_needed'])} for the draft"
    licence = facts.get("licence", {})
    stated = licence.get("license") or licence.get("license.name")
    yield f"  licence    {stated or 'not stated in the file'}, of the draft"


def _model_lines(entry: dict[str, Any]) -> Iterator[str]:
    facts = entry["metadata"]
    yield f"  model      {_named(facts)}"
    if facts.get("parameters"):
        yield f"  parameters {facts['parameters'] / 1e6:,.0f} million"
    if facts.get("context_length"):
        yield f"  trained on {facts['context_length']:,} tokens of context"
    if facts.get("memory_needed"):
        tokens = facts.get("memory_context", 0)
        needed = bytes_text(facts["memory_needed"])
        yield f"  memory     about {needed} with {tokens:,} tokens of context"
    licence = facts.get("licence", {})
    stated = licence.get("license") or licence.get("license.name")
    yield f"  licence    {stated or 'not stated in the model file'}"
    template = "the model's own" if facts.get("chat_template") else "none in the model: a fallback"
    yield f"  template   {template}"
    stored = "mapped from the pack" if entry["codec"] == RAW else "extracted to the cache once"
    yield f"  storage    {stored}"


_LINES_OF = {"model": _model_lines, "draft": _draft_lines, "warm": _warm_lines}


def license_lines(bundle: Bundle, runtime: Path, *, names_only: bool) -> Iterator[str]:
    """Licences of the model, as it states them, then of every component in the runtime."""
    for entry in (entry for kind in GGUF_KINDS for entry in bundle.of_kind(kind)):
        yield f"== {entry.kind} {entry.metadata.get('name') or entry.name}"
        stated = entry.metadata.get("licence", {})
        for key, value in stated.items():
            yield f"{key}: {value}"
        if not stated:
            yield f"The {entry.kind}'s file states no licence. Ask whoever published it."
        yield ""
    folder = runtime / LICENSES_FOLDER
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    for component in index:
        yield f"== {component['name']} {component['version']}: {component['license']}"
        if not names_only:
            for name in component["files"]:
                yield (folder / name).read_text(encoding="utf-8", errors="replace").strip()
                yield ""
