"""A bill of materials (CycloneDX 1.6, JSON) of everything inside a pack or stub."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from runtime_stub.bundle import Bundle
from runtime_stub.describe import LICENSES_FOLDER
from runtime_stub.errors import FormatError
from runtime_stub.manifest import GGUF_KINDS, Entry
from runtime_stub.runtime_archive import RuntimeArchive

_INDEX = f"{LICENSES_FOLDER}/index.json"
_FULL_TEXT = "full text"  # a licence's text that several components refer to
_MAX_INDEX = 4 << 20
_NAMESPACE = uuid.UUID("a3c1d0e4-7c1e-5b5f-9a43-2f6b7d1c9e55")


def bill_of_materials(bundle: Bundle) -> str:
    """The bill as JSON text.

    Python packages and native libraries are those that the runtime lists with their licences.
    Raises FormatError when it has no such list.
    """
    bom = Bom(serial_number=uuid.uuid5(_NAMESPACE, bundle.footer.manifest_sha256.hex()))
    manifest = bundle.manifest
    stub = manifest.stub
    top = Component(
        type=ComponentType.APPLICATION,
        name=manifest.name or "satchel stub",
        version=str(stub.get("satchel", "")) or None,
        bom_ref="pack",
        properties=[Property(name="satchel:platform", value=str(stub.get("platform", "?")))],
    )
    bom.metadata.component = top
    parts = [*_entries(bundle), *_runtime_parts(bundle)]
    for part in parts:
        bom.components.add(part)
    bom.register_dependency(top, parts)
    text: str = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(
        indent=2
    )
    return text


def _entries(bundle: Bundle) -> Iterator[Component]:
    """Launcher, runtime, models, adapters and drafts, each with its hash."""
    for entry in bundle.manifest.entries:
        if entry.kind in GGUF_KINDS:
            yield _model(entry)
        elif entry.kind in ("launcher", "runtime"):
            yield Component(
                type=ComponentType.FILE,
                name=f"satchel {entry.name}",
                version=str(bundle.manifest.stub.get("satchel", "")) or None,
                bom_ref=f"entry:{entry.name}",
                hashes=[_sha256(entry.sha256)],
                licenses=[_license("Apache-2.0")],
            )


def _model(entry: Entry) -> Component:
    facts = entry.metadata
    licence = facts.get("licence", {})
    stated = licence.get("license") or licence.get("license.name")
    details = ("architecture", "quantization", "parameters", "context_length")
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=str(facts.get("name") or entry.name),
        version=licence.get("version"),
        bom_ref=f"entry:{entry.name}",
        hashes=[_sha256(entry.sha256)],
        licenses=[_license(str(stated))] if stated else [],
        properties=[
            *(
                Property(name=f"satchel:{key}", value=str(facts[key]))
                for key in details
                if key in facts
            ),
            *(Property(name=f"gguf:general.{key}", value=str(licence[key])) for key in licence),
        ],
    )


def _runtime_parts(bundle: Bundle) -> Iterator[Component]:
    """Python, its packages and native libraries, from the runtime's own list of licences."""
    known = {"llama.cpp": str(bundle.manifest.stub.get("llama_cpp", {}).get("commit", ""))}
    for item in _licence_index(bundle):
        name, licence = str(item["name"]), str(item["license"])
        if licence == _FULL_TEXT or name == "Satchel":
            continue
        version = str(item["version"]) or known.get(name, "")
        yield Component(
            type=ComponentType.LIBRARY,
            name=name,
            version=version or None,
            bom_ref=f"{item.get('source', 'native')}:{name}",
            purl=_purl(str(item.get("source", "native")), name, version),
            licenses=[] if licence == "see text" else [_license(licence)],
        )


def _licence_index(bundle: Bundle) -> list[dict[str, Any]]:
    archive = RuntimeArchive(bundle)
    for member in archive.members:
        if member.path == _INDEX and member.size <= _MAX_INDEX:
            try:
                return list(json.loads(archive.take(member.size)))
            except ValueError:
                break
        for start in range(0, member.size, _MAX_INDEX):
            archive.take(min(_MAX_INDEX, member.size - start))
    raise FormatError(f"{bundle.path} does not list what its runtime is made of")


def _purl(source: str, name: str, version: str) -> PackageURL:
    """What scanners for known faults look a component up by."""
    namespace: str | None = None
    if source == "deb":
        namespace = "debian"
    elif source == "npm" and "/" in name:
        namespace, _, name = name.partition("/")
    elif source not in ("pypi", "npm"):
        source, name = "generic", name.lower().replace(" ", "-")
    return PackageURL(source, namespace, name, version or None)


def _license(text: str) -> License:
    return LicenseFactory().make_from_string(text)


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)
