"""Grammars for answers of a demanded form. Making one takes time, so a thread does it."""

from __future__ import annotations

from collections.abc import Callable

import anyio.to_thread

from runtime_stub.errors import PromptError
from runtime_stub.server.replies import Problem


async def schema_grammar(schema: object, param: str) -> str:
    """What a JSON text must follow to be valid under `schema`.

    Raises Problem (400) about the field `param` for a schema that can't be followed.
    """

    def make() -> str:
        from runtime_stub.engine.schema import grammar_for

        return grammar_for(schema)

    return await _in_thread(make, param)


async def checked_grammar(text: str, param: str) -> str:
    """`text` if it is a sound GBNF grammar. Raises Problem (400) about the field `param`."""

    def make() -> str:
        from runtime_stub.engine.grammar import check

        return check(text)

    return await _in_thread(make, param)


async def json_grammar() -> str:
    """What any JSON object follows."""

    def make() -> str:
        from runtime_stub.engine.grammar_builder import JSON_OBJECT

        return JSON_OBJECT

    return await _in_thread(make, "")


async def _in_thread(make: Callable[[], str], param: str) -> str:
    try:
        return await anyio.to_thread.run_sync(make)
    except PromptError as error:
        raise Problem(400, f"{param}: {error}", param) from None
