"""The HTTP application: every face's routes, and what goes around them.

access log > counting > guard > admission > routes > a face's handler
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from runtime_stub.server import admission, anthropic, ollama, openai, page, status
from runtime_stub.server.access import AccessLog, Write
from runtime_stub.server.admission import Admission
from runtime_stub.server.face import Face, Operation
from runtime_stub.server.guard import Guard, Rules
from runtime_stub.server.metered import ROUTE, Metered, MeteredEngine
from runtime_stub.server.replies import Handler, Problem, Shape, handled, problem_reply
from runtime_stub.server.state import State


def make_app(
    state: State,
    *,
    rules: Rules | None = None,
    access_log: Write | None = None,
    room: int = admission.MOST,
) -> ASGIApp:
    """The application that serves `state`.

    `rules` say who may ask; without them everybody may. `access_log` takes one line for
    each request. `room` is how many bytes of memory all requests may take.
    """
    faces = faces_of(_counted(state))
    app: ASGIApp = _routes(faces)
    app = Admission(app, room, lambda path: _shape_for(path, faces))
    if rules is not None:
        app = Guard(app, rules, lambda path: _shape_for(path, faces))
    app = Metered(app, state.tally)
    return app if access_log is None else AccessLog(app, access_log)


def faces_of(state: State) -> tuple[Face, ...]:
    """All faces. The first one's shape is for what belongs to none."""
    faces: tuple[Face, ...] = ()
    faces = (
        openai.face(state),
        anthropic.face(state),
        ollama.face(state),
        status.face(state, lambda: faces),
        *((page.face(state.page),) if state.page else ()),
    )
    return faces


def _counted(state: State) -> State:
    models = (
        dataclasses.replace(model, engine=MeteredEngine(model.engine, state.tally, model.name))
        for model in state.models
    )
    return dataclasses.replace(state, models=tuple(models))


def _routes(faces: Sequence[Face]) -> Starlette:
    async def problem(http: HttpRequest, status: int, message: str) -> Response:
        return problem_reply(Problem(status, message), _shape_for(http.url.path, faces))

    async def not_found(http: HttpRequest, _error: Exception) -> Response:
        return await problem(http, 404, f"there is nothing at {http.url.path}")

    async def wrong_method(http: HttpRequest, error: Exception) -> Response:
        response = await problem(http, 405, f"{http.url.path} does not take {http.method}")
        response.headers.update(getattr(error, "headers", None) or {})
        return response

    async def internal_error(http: HttpRequest, _error: Exception) -> Response:
        return await problem(http, 500, "the server failed to handle the request")

    app = Starlette(
        routes=[
            Route(operation.path, _endpoint(operation, face), methods=[operation.method])
            for face in faces
            for operation in face.operations
        ],
        exception_handlers={404: not_found, 405: wrong_method, 500: internal_error},
    )
    app.router.redirect_slashes = False
    return app


def _endpoint(operation: Operation, face: Face) -> Handler:
    answer = handled(operation.handler, face.shape)

    async def endpoint(http: HttpRequest) -> Response:
        http.scope[ROUTE] = operation.path
        return await answer(http)

    return endpoint


def _shape_for(path: str, faces: Sequence[Face]) -> Shape:
    for face in faces:
        if path.startswith(face.prefixes):
            return face.shape
    return faces[0].shape
