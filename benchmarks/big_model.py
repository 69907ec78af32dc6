"""Writes a GGUF of about 4 GB with random weights, in the shapes of a 7B Llama as Q4_K_M.

    python -m benchmarks.big_model OUT.gguf

It says nothing of sense. It is there to be loaded, packed and measured, and takes a few
seconds to write, a few megabytes of memory, and no download.
"""

from __future__ import annotations

import argparse
import itertools
import random
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

U32, F32, STRING, ARRAY, I32 = 4, 6, 8, 9, 5
TYPE_F32, TYPE_Q4_K, TYPE_Q6_K = 0, 12, 14
_ALIGNMENT = 32
_PIECE = 4 << 20
"""About how many bytes are made and written at once."""
_TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """The size of a model. The default is that of a 7B Llama."""

    layers: int = 32
    width: int = 4096
    feed_forward: int = 11008
    heads: int = 32
    vocabulary: int = 32000
    context: int = 4096


@dataclass(frozen=True)
class Weights:
    """A tensor to come."""

    name: str
    shape: tuple[int, ...]
    kind: int

    @property
    def size(self) -> int:
        """Bytes in the file."""
        elements = 1
        for length in self.shape:
            elements *= length
        values, size = _BLOCKS[self.kind]
        return elements // values * size


_BLOCKS = {TYPE_F32: (1, 4), TYPE_Q4_K: (256, 144), TYPE_Q6_K: (256, 210)}
_SCALES = {TYPE_Q4_K: (0, 2), TYPE_Q6_K: (208,)}
"""Where half-precision factors lie in a block. Random ones could be infinite."""
_SCALE = struct.pack("<e", 0.0002)


def write_model(
    path: Path, shape: Shape = Shape(), on_progress: Callable[[int, int], None] | None = None
) -> None:
    """Write the model to `path`. `on_progress` is told bytes done and bytes in all."""
    tensors = list(weights(shape))
    total = sum(tensor.size for tensor in tensors)
    chance = random.Random(1)  # noqa: S311
    done = 0
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(_header(shape, tensors))
            for tensor in tensors:
                file.write(bytes(-file.tell() % _ALIGNMENT))
                for piece in _data(tensor, chance):
                    file.write(piece)
                    done += len(piece)
                    if on_progress is not None:
                        on_progress(done, total)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def weights(shape: Shape) -> Iterator[Weights]:
    """The tensors, as Q4_K_M mixes their types."""
    width, wide = shape.width, shape.feed_forward
    yield Weights("token_embd.weight", (width, shape.vocabulary), TYPE_Q4_K)
    yield Weights("output_norm.weight", (width,), TYPE_F32)
    yield Weights("output.weight", (width, shape.vocabulary), TYPE_Q6_K)
    eighth = max(1, shape.layers // 8)
    for layer in range(shape.layers):
        better = layer < eighth or layer >= shape.layers - eighth or (layer - eighth) % 3 == 2
        mixed = TYPE_Q6_K if better else TYPE_Q4_K
        for name, sizes, kind in (
            ("attn_norm", (width,), TYPE_F32),
            ("ffn_norm", (width,), TYPE_F32),
            ("attn_q", (width, width), TYPE_Q4_K),
            ("attn_k", (width, width), TYPE_Q4_K),
            ("attn_v", (width, width), mixed),
            ("attn_output", (width, width), TYPE_Q4_K),
            ("ffn_gate", (width, wide), TYPE_Q4_K),
            ("ffn_up", (width, wide), TYPE_Q4_K),
            ("ffn_down", (wide, width), mixed),
        ):
            yield Weights(f"blk.{layer}.{name}.weight", sizes, kind)


def _data(tensor: Weights, chance: random.Random) -> Iterator[bytes | bytearray]:
    if tensor.kind == TYPE_F32:
        yield struct.pack("<f", 1.0) * (tensor.size // 4)
        return
    _, size = _BLOCKS[tensor.kind]
    left = tensor.size // size
    while left:
        blocks = min(left, _PIECE // size)
        piece = bytearray(chance.randbytes(blocks * size))
        for place in _SCALES[tensor.kind]:
            piece[place::size] = _SCALE[:1] * blocks
            piece[place + 1 :: size] = _SCALE[1:] * blocks
        yield piece
        left -= blocks


def _header(shape: Shape, tensors: Iterable[Weights]) -> bytes:
    tokens = list(itertools.islice(_tokens(), shape.vocabulary))
    kinds = [2, 3, 3] + [6] * 256 + [1] * (shape.vocabulary - 259)
    scores = [0.0 if kind != 1 else -float(number) for number, kind in enumerate(kinds)]
    pairs = [
        _pair("general.architecture", STRING, "llama"),
        _pair("general.name", STRING, "Random 7B"),
        _pair("general.license", STRING, "cc0-1.0"),
        _pair("general.file_type", U32, 15),
        _pair("llama.block_count", U32, shape.layers),
        _pair("llama.context_length", U32, shape.context),
        _pair("llama.embedding_length", U32, shape.width),
        _pair("llama.feed_forward_length", U32, shape.feed_forward),
        _pair("llama.attention.head_count", U32, shape.heads),
        _pair("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
        _pair("llama.rope.dimension_count", U32, shape.width // shape.heads),
        _pair("tokenizer.ggml.model", STRING, "llama"),
        _list("tokenizer.ggml.tokens", STRING, tokens),
        _list("tokenizer.ggml.scores", F32, scores),
        _list("tokenizer.ggml.token_type", I32, kinds),
        _pair("tokenizer.ggml.bos_token_id", U32, 1),
        _pair("tokenizer.ggml.eos_token_id", U32, 2),
        _pair("tokenizer.ggml.unknown_token_id", U32, 0),
        _pair("tokenizer.chat_template", STRING, _TEMPLATE),
    ]
    tensors = list(tensors)
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(pairs)), *pairs]
    offset = 0
    for tensor in tensors:
        parts.append(_text(tensor.name) + struct.pack("<I", len(tensor.shape)))
        parts.append(struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape))
        parts.append(struct.pack("<IQ", tensor.kind, offset))
        offset += -(-tensor.size // _ALIGNMENT) * _ALIGNMENT
    return b"".join(parts)


def _tokens() -> Iterator[str]:
    """SentencePiece's special tokens, every byte, and then made-up pieces of words."""
    yield from ("<unk>", "<s>", "</s>")
    yield from (f"<0x{value:02X}>" for value in range(256))
    letters = "abcdefghijklmnopqrstuvwxyz"
    yield "▁"
    yield from letters
    for length in (1, 2, 3):
        for word in itertools.product(letters, repeat=length):
            yield "▁" + "".join(word)
            if length > 1:
                yield "".join(word)


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _value(kind: int, value: str | float) -> bytes:
    if isinstance(value, str):
        return _text(value)
    return struct.pack({U32: "<I", F32: "<f", I32: "<i"}[kind], value)


def _pair(key: str, kind: int, value: str | float) -> bytes:
    return _text(key) + struct.pack("<I", kind) + _value(kind, value)


def _list(key: str, kind: int, values: Iterable[str | float]) -> bytes:
    items = [_value(kind, value) for value in values]
    return _text(key) + struct.pack("<IIQ", ARRAY, kind, len(items)) + b"".join(items)


def main() -> None:
    """Write one from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    shown = -1

    def show(done: int, total: int) -> None:
        nonlocal shown
        if done * 100 // total != shown:
            shown = done * 100 // total
            print(f"\r{shown} % of {total / 1e9:.2f} GB", end="", file=sys.stderr, flush=True)

    write_model(options.out, on_progress=show)
    print(file=sys.stderr)


if __name__ == "__main__":
    main()
