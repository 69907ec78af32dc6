"""Embeddings and reranking: OpenAI's shape, and Jina's."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from runtime_stub.engine.messages import Embeddings, EmbedRequest, RerankRequest, Scores
from runtime_stub.server.replies import Problem

MAX_INPUTS = 2048


class EmbeddingsRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/embeddings."""

    input: str | list[str | int | list[int]]
    """A text, or several. Tokens are refused: clients count them in another vocabulary."""
    model: str = "default"
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    """The model's own number, if at all."""
    user: Any = None


class Embedding(msgspec.Struct):
    """One vector."""

    index: int
    embedding: list[float] | str
    """As numbers, or as base64 of 32-bit floats, little endian."""
    object: Literal["embedding"] = "embedding"


class ReadTokens(msgspec.Struct):
    """Counts of tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsReply(msgspec.Struct, kw_only=True):
    """The vectors of all texts."""

    data: list[Embedding]
    model: str
    usage: ReadTokens
    object: Literal["list"] = "list"


class TextDocument(msgspec.Struct):
    """A document to score."""

    text: str


class RerankBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/rerank."""

    query: str
    documents: list[str | TextDocument]
    model: str = "default"
    top_n: int | None = None
    return_documents: bool | None = None


class Ranked(msgspec.Struct):
    """One document's place."""

    index: int
    """Which document it is, by its place in the request."""
    relevance_score: float
    document: TextDocument | UnsetType = UNSET


class RerankReply(msgspec.Struct, kw_only=True):
    """The documents, the most relevant first."""

    results: list[Ranked]
    model: str
    usage: ReadTokens
    object: Literal["list"] = "list"


def embed_request(asked: EmbeddingsRequest) -> EmbedRequest:
    """What to ask the engine. Raises Problem (400)."""
    given = [asked.input] if isinstance(asked.input, str) else asked.input
    texts = tuple(text for text in given if isinstance(text, str))
    if len(texts) != len(given):
        raise Problem(
            400,
            "input: token numbers are not supported, as clients count them in another vocabulary; "
            "send texts (LangChain's OpenAIEmbeddings does with check_embedding_ctx_length=False)",
            "input",
        )
    if not 1 <= len(texts) <= MAX_INPUTS or not all(texts):
        raise Problem(400, f"input: from 1 to {MAX_INPUTS} texts, none of them empty", "input")
    return EmbedRequest(texts)


def embeddings_reply(asked: EmbeddingsRequest, found: Embeddings, model: str) -> EmbeddingsReply:
    """The vectors as they were asked for. Raises Problem (400) for another size of them."""
    size = len(found.vectors[0])
    if asked.dimensions not in (None, size):
        text = f"dimensions: this model's vectors have {size:,}, which can't be changed"
        raise Problem(400, text, "dimensions")
    shown = _base64 if asked.encoding_format == "base64" else list
    return EmbeddingsReply(
        data=[Embedding(number, shown(vector)) for number, vector in enumerate(found.vectors)],
        model=model,
        usage=ReadTokens(found.tokens, found.tokens),
    )


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def rerank_request(asked: RerankBody) -> RerankRequest:
    """What to ask the engine. Raises Problem (400)."""
    if not 1 <= len(asked.documents) <= MAX_INPUTS:
        raise Problem(400, f"documents: from 1 to {MAX_INPUTS} are supported", "documents")
    if asked.top_n is not None and asked.top_n < 1:
        raise Problem(400, "top_n must be at least 1", "top_n")
    return RerankRequest(asked.query, tuple(_text(document) for document in asked.documents))


def rerank_reply(asked: RerankBody, found: Scores, model: str) -> RerankReply:
    """The documents by their scores."""
    order = sorted(range(len(found.scores)), key=lambda number: -found.scores[number])
    return RerankReply(
        results=[
            Ranked(
                number,
                found.scores[number],
                TextDocument(_text(asked.documents[number])) if asked.return_documents else UNSET,
            )
            for number in order[: asked.top_n]
        ],
        model=model,
        usage=ReadTokens(found.tokens, found.tokens),
    )


def _text(document: str | TextDocument) -> str:
    return document if isinstance(document, str) else document.text
