"""Errors in OpenAI's shape."""

from __future__ import annotations

import msgspec

from runtime_stub.server.replies import Problem


class ErrorDetail(msgspec.Struct):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    """The field that is wrong."""
    code: str | int | None = None


class ErrorReply(msgspec.Struct):
    """A request that failed."""

    error: ErrorDetail


_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_reply(problem: Problem) -> ErrorReply:
    """A problem in OpenAI's shape."""
    kind = "server_error" if problem.status >= 500 else "invalid_request_error"
    kind = _TYPES.get(problem.status, kind)
    return ErrorReply(ErrorDetail(problem.message, kind, problem.param, problem.code))
