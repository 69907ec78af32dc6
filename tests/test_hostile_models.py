"""Models made to harm whoever packs them: refused by `satchel pack` with a reason, in bounded
time, leaving nothing behind."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import gguf_files as g
import pytest
import small_packs as s

from packer.stub import Stub
from runtime_stub.errors import FormatError, PromptError, SatchelError

SECONDS = 60
"""Far more than the limit on a template's child, for a busy machine."""

HUGE = 2**64 - 1
A = g.TensorInfo("token_embd.weight", (64, 96), g.TYPE_F16)

TEMPLATES = {
    "loops": "{% for i in range(10**9) %}{% for j in range(10**9) %}{% endfor %}{% endfor %}",
    "calls itself": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "includes itself": "{% include self %}",
    "extends itself": "{% extends 'self' %}",
    "imports itself": "{% import 'self' as me %}{{ me }}",
    "grows": "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(99999) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "writes without end": "{% for i in range(10**9) %}{{ 'x' * 1000 }}{% endfor %}",
    "huge text": "{{ 'x' * 500000000 }}",
    "huge number": "{{ 9 ** 99999999 }}",
    "own list in itself": "{% set x = [] %}{% for i in range(99999) %}"
    "{% set _ = x.append(x) %}{% endfor %}{{ x | string | length }}{{ x | tojson }}",
    "attributes": "{{ messages.__class__.__base__.__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__['os'].system('id') }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
}

FILES = {
    "tensors": g.Gguf(n_tensors=HUGE).build(),
    "keys": g.Gguf(n_keys=HUGE).build(),
    "key length": g.Gguf(n_keys=1, extra_keys=struct.pack("<Q", HUGE)).build(),
    "text length": g.Gguf(n_keys=1, extra_keys=g.text("k") + struct.pack("<IQ", 8, HUGE)).build(),
    "array length": g.Gguf(
        n_keys=1, extra_keys=g.text("k") + struct.pack("<IIQ", 9, 4, HUGE)
    ).build(),
    "array of arrays": g.Gguf(
        n_keys=1, extra_keys=g.text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 999
    ).build(),
    "shape": g.model(tensors=(g.TensorInfo("a", (2**62, 4), data=b""),)).build(),
    "shape that overflows": g.model(tensors=(g.TensorInfo("a", (2**32, 2**32), data=b""),)).build(),
    "offset": g.model(tensors=(g.TensorInfo("a", offset=2**64 - 32),)).build(),
    "overlap": g.model(tensors=(A, g.TensorInfo("b", (32,), offset=0))).build(),
    "inside out": g.model(
        tensors=(g.TensorInfo("a", offset=128), g.TensorInfo("b", offset=0))
    ).build(),
    "alignment": g.model(general__alignment=g.Typed(g.U32, 2**31)).build(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_templates(name: str, tmp_path: Path, out: Path, small_stub: Stub) -> None:
    keys = {"tokenizer.chat_template": g.Typed(g.STRING, TEMPLATES[name])}
    source = g.model(more=keys).write(tmp_path / "model.gguf")
    started = time.monotonic()
    with pytest.raises(PromptError, match="chat template can't be used: ") as caught:
        s.pack(source, out / "assistant", small_stub)
    assert len(caught.value.message) < 1000
    assert s.files_in(out) == set()
    assert time.monotonic() - started < SECONDS


@pytest.mark.parametrize("name", FILES)
def test_files(name: str, tmp_path: Path, out: Path, small_stub: Stub) -> None:
    (tmp_path / "model.gguf").write_bytes(FILES[name])
    started = time.monotonic()
    with pytest.raises(SatchelError) as caught:
        s.pack(tmp_path / "model.gguf", out / "assistant", small_stub)
    assert isinstance(caught.value, FormatError)
    assert caught.value.hint
    assert s.files_in(out) == set()
    assert time.monotonic() - started < SECONDS
