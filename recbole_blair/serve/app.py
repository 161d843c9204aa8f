"""The routes: requests in, answers of the batcher out, errors as one line of JSON."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from recbole_blair.errors import InputError
from recbole_blair.schema import VERSION
from recbole_blair.serve.batching import Batcher, BusyError
from recbole_blair.serve.engine import Serving
from recbole_blair.serve.requests import NewItemsBody, RecommendBody, ScoreBody, SearchQuery, SimilarBody

PAGE = {
    "/": ("index.html", "text/html"), "/page.css": ("page.css", "text/css"), "/page.js": ("page.js", "text/javascript"),
}  # fmt: skip
# The page asks this server alone, and may stand in no frame of another.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
MISTAKES: dict[int | str, dict[str, Any]] = {
    400: {"description": "what was asked for is not there, or makes no sense: `error` says what"},
    413: {"description": "the body is too large"}, 503: {"description": "too many requests wait"},
}  # fmt: skip


def build_app(serving: Serving, batcher: Batcher) -> FastAPI:
    """Build the application.

    Args:
        serving: the runs.
        batcher: computes what is asked.
    """
    # Its pages of documentation would load scripts from elsewhere: the description alone is served.
    app = FastAPI(title="recbole-blair", version=VERSION, docs_url=None, redoc_url=None, responses=MISTAKES)
    app.state.reload_error = None
    add_errors(app)
    add_page(app)

    @app.post("/recommend")
    async def recommend(body: RecommendBody) -> Response:
        """Return the best items for each user, best first."""
        return JSONResponse(await batcher.run("recommend", body))

    @app.post("/similar")
    async def similar(body: SimilarBody) -> Response:
        """Return the items nearest to each of given ones, by model vectors or by text features."""
        return JSONResponse(await batcher.run("similar", body))

    @app.post("/score")
    async def score(body: ScoreBody) -> Response:
        """Return the scores of items for users: one list per user, in the order of the items."""
        return JSONResponse(await batcher.run("score", body))

    @app.get("/search")
    async def search(query: Annotated[SearchQuery, Query()]) -> Response:
        """Return the items whose texts hold the words, best first (BM25)."""
        return JSONResponse(await batcher.run("search", query))

    @app.post("/items")
    async def items(body: NewItemsBody) -> Response:
        """Add items that training never saw to the catalogue, by their text, until the server ends."""
        encoded = await asyncio.to_thread(serving.encode_items, body)  # recommendations go on meanwhile
        return JSONResponse(await batcher.run("items", encoded))

    @app.get("/health")
    async def health() -> Response:
        """Say which runs are served, and how many requests were answered in how many batches."""
        runs = [engine.describe() for engine in serving.engines.values()]
        counts = {"requests": batcher.jobs, "batches": batcher.batches, "reload_error": app.state.reload_error}
        return JSONResponse({"status": "ok", "version": VERSION, "runs": runs, **counts})

    return app


def add_page(app: FastAPI) -> None:
    """Add the page on which one tries the runs."""
    folder = files("recbole_blair.serve") / "page"
    for path, (name, kind) in PAGE.items():
        content = (folder / name).read_bytes()

        def page(content: bytes = content, kind: str = kind) -> Response:
            return Response(content, media_type=kind, headers=PAGE_HEADERS)

        app.add_api_route(path, endpoint=lambda page=page: page(), include_in_schema=False)


def add_errors(app: FastAPI) -> None:
    """Answer mistakes with `{"error": one line}`."""

    @app.exception_handler(InputError)
    async def wrong_input(request: Request, error: InputError) -> Response:
        return mistake(400, str(error))

    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> Response:
        return mistake(503, "too many requests wait; try again", {"Retry-After": "1"})

    @app.exception_handler(RequestValidationError)
    async def wrong_shape(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        named = any(isinstance(part, str) for part in first["loc"][1:])  # else the place where the JSON ends
        place = ".".join(str(part) for part in first["loc"][1:]) if named else "the body"
        return mistake(422, f"{place[:100]}: {first['msg']}; /openapi.json says what is expected")

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return mistake(error.status_code, str(error.detail), error.headers)


def mistake(status: int, message: str, headers: Any = None) -> Response:
    """Return an error; what JSON cannot hold is replaced."""
    line = " ".join(message.split())[:1000].encode("utf-8", "replace").decode()
    return JSONResponse({"error": line}, status, headers)
