"""The ASGI application: the routes and their handlers. The package's docstring shows the path of a request."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from edge_interleave.decoding.generation import TokenScore
from edge_interleave.errors import shown
from edge_interleave.serve.chat_api import DONE_LINE, ChatAnswer, event_line
from edge_interleave.serve.content import MediaReader, Picture
from edge_interleave.serve.engine import LOG
from edge_interleave.serve.errors import ApiError, api_error, wrong
from edge_interleave.serve.handle import Done, Ended, Handle, Piece
from edge_interleave.serve.hub import Card, Hub
from edge_interleave.serve.jobs import Jobs, Watch
from edge_interleave.serve.live_api import Windows
from edge_interleave.serve.live_socket import LiveSockets
from edge_interleave.serve.loaded import LoadedModel
from edge_interleave.serve.metrics import CONTENT_TYPE, Metrics
from edge_interleave.serve.openapi import description
from edge_interleave.serve.page_files import page_routes
from edge_interleave.serve.parsing import parse
from edge_interleave.serve.question import chat_question, live_question, responses_question
from edge_interleave.serve.remote import fetch_public
from edge_interleave.serve.responses_api import ResponsesAnswer, named_event_line
from edge_interleave.serve.safety import Safety
from edge_interleave.serve.schema import (
    ChatRequest,
    FramesRequest,
    LiveQuestion,
    LiveRequest,
    ResponsesRequest,
)
from edge_interleave.serve.settings import Settings
from edge_interleave.serve.shared_sources import SharedSources

_M = TypeVar("_M", bound=BaseModel)
_IDLE_CHECK_S = 5.0
_IMAGE_TYPES = ("image/", "application/octet-stream")


class Serving:
    """A server's state, and its routes."""

    def __init__(self, settings: Settings) -> None:
        """Read the models' manifests. Raises BundleError, BackendError, ResourceError, UsageError."""
        self.settings = settings
        self.metrics = Metrics()
        self.hub = Hub(settings, self.metrics)
        self.startup_error: ApiError | None = None
        """The error that kept the first model from loading; None if there was none."""
        self._jobs = Jobs(settings.limits.request_s, self.metrics)
        self._windows = Windows(settings.limits, self.hub, self._jobs)
        self._sources = SharedSources(settings.sources)
        self._sockets = LiveSockets(self._windows, self._jobs, self._sources, settings.limits)
        self.metrics.windows.set_function(lambda: len(self._windows))
        self._reader = MediaReader(settings.limits, fetch_public if settings.remote_images else None)
        self._started = int(time.time())

    def app(self) -> ASGIApp:
        """The ASGI application."""
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/responses", self._responses, methods=["POST"]),
            Route("/v1/models", self._models, methods=["GET"]),
            Route("/v1/models/{name:path}", self._model, methods=["GET"]),
            Route("/v1/live", self._live_open, methods=["POST"]),
            WebSocketRoute("/v1/live/ws", self._live_socket),
            Route("/v1/live/sources", self._live_sources, methods=["GET"]),
            Route("/v1/live/{id}", self._live_state, methods=["GET", "DELETE"]),
            Route("/v1/live/{id}/frames", self._live_frames, methods=["POST"]),
            Route("/v1/live/{id}/ask", self._live_ask, methods=["POST"]),
            Route("/props", self._props, methods=["GET"]),
            Route("/health", self._health, methods=["GET"]),
            Route("/v1/health", self._health, methods=["GET"]),
            Route("/readyz", self._health, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/openapi.json", self._openapi, methods=["GET"]),
            *page_routes(),
        ]
        handlers: dict[Any, Any] = {
            ApiError: _error_response,
            HTTPException: _http_error,
            ClientDisconnect: _client_gone,
            Exception: _error_response,
        }
        inner = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)
        inner.router.redirect_slashes = False
        return Safety(_RequestCounter(inner, self.metrics.request), self.settings, self.metrics.request)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        try:
            await self._jobs.run(self.hub.cards[0], "start", lambda model, handle: handle.emit(Done()))
        except ApiError as error:
            self.startup_error = error
            raise
        idle = asyncio.create_task(self._close_idle())
        try:
            yield
        finally:
            idle.cancel()
            await run_in_threadpool(self._sources.close)
            await run_in_threadpool(self.hub.stop, self.settings.limits.grace_s)

    async def _close_idle(self) -> None:
        while True:
            await asyncio.sleep(_IDLE_CHECK_S)
            for window in self._windows.idle():
                await run_in_threadpool(self._windows.remove, window)

    # OpenAI's interface.

    async def _chat(self, request: Request) -> Response:
        asked = await _read(request, ChatRequest)
        card = self.hub.card(asked.model)
        question = await run_in_threadpool(chat_question, asked, self._reader, self.settings.limits)
        asked.messages.clear()  # the base64 texts of images
        answer = ChatAnswer(asked.model or card.id, card.fingerprint, logprobs=bool(asked.logprobs))
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        return await self._completion(
            request,
            card,
            lambda m, h: m.answer(question, h),
            answer,
            stream=bool(asked.stream),
            usage=usage,
            timings=bool(asked.timings_per_token),
        )

    async def _responses(self, request: Request) -> Response:
        asked = await _read(request, ResponsesRequest)
        card = self.hub.card(asked.model)
        question = await run_in_threadpool(responses_question, asked, self._reader, self.settings.limits)
        answer = ResponsesAnswer(asked.model or card.id, asked)
        handle = self._jobs.submit(card, request.scope["edge_interleave.client"], lambda m, h: m.answer(question, h))
        if not asked.stream:
            ended, _ = await self._whole(handle, request.receive, card)
            return JSONResponse(answer.whole(ended))

        async def lines() -> AsyncIterator[bytes]:
            try:
                async for event in answer.events(self._jobs.counting(handle.events(), card)):
                    yield named_event_line(event)
            except ApiError as error:
                yield named_event_line(answer.failed(error.body()["error"]))

        return await _stream(lines(), handle, request.receive)

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model_entry(card) for card in self.hub.cards]})

    async def _model(self, request: Request) -> Response:
        return JSONResponse(self._model_entry(self.hub.card(request.path_params["name"])))

    def _model_entry(self, card: Card) -> dict[str, Any]:
        manifest = card.bundle.manifest
        return {
            "id": card.id,
            "aliases": list(card.aliases),
            "object": "model",
            "created": self._started,
            "owned_by": "edge-interleave",
            "max_model_len": card.context,
            "architecture": {
                "input_modalities": ["text", "image", "video"],
                "output_modalities": ["text"],
            },
            "meta": {
                "n_ctx": card.context,
                "n_ctx_train": manifest.decoder.context_length,
                "n_vocab": manifest.decoder.vocab_size,
                "n_embd": manifest.decoder.hidden_size,
                "n_params": manifest.decoder.parameters,
                "size": sum(file.bytes for file in manifest.files.values()),
            },
            "loaded": card.engine.model is not None,
        }

    # For clients of llama.cpp's server, and for monitoring.

    async def _props(self, request: Request) -> Response:
        card = self.hub.card(request.query_params.get("model"))
        prompt = card.bundle.manifest.prompt
        return JSONResponse(
            {
                "default_generation_settings": {
                    "n_ctx": card.context,
                    "params": {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "max_tokens": 1024},
                },
                "total_slots": 1,
                "model_path": card.id,
                "model_alias": card.id,
                "modalities": {"vision": True, "audio": False, "video": True},
                "media_marker": "<image>",
                "chat_template": prompt.chat_template,
                "chat_template_caps": {"supports_tools": False},
                "bos_token": prompt.bos_token or "",
                "eos_token": prompt.eos_token,
                "build_info": "edge-interleave",
            }
        )

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(description(with_key=bool(self.settings.keys)))

    # Live windows.

    async def _live_open(self, request: Request) -> Response:
        asked = await _read(request, LiveRequest, or_default=True)
        window = await self._windows.open(asked, request.scope["edge_interleave.client"], request.receive)
        return JSONResponse(window.state(), status_code=201)

    async def _live_state(self, request: Request) -> Response:
        window = self._windows.find(request.path_params["id"])
        if request.method == "DELETE":
            await run_in_threadpool(self._windows.remove, window)
            return JSONResponse({"id": window.id, "object": "live.deleted", "deleted": True})
        return JSONResponse(window.state())

    async def _live_frames(self, request: Request) -> Response:
        window = self._windows.find(request.path_params["id"])
        kind = request.headers.get("content-type", "").lower()
        if kind.startswith(_IMAGE_TYPES):
            body = b"".join([chunk async for chunk in request.stream()])
            if not body:
                raise wrong("body", "the body is empty; send an image file's content")
            pictures, time_s = [Picture(body, "auto", "body")], None
        else:
            asked = await _read(request, FramesRequest)
            pictures, time_s = await run_in_threadpool(self._pictures, asked), asked.time_s
        numbers = await self._windows.add_frames(
            window, pictures, time_s, request.scope["edge_interleave.client"], request.receive
        )
        return JSONResponse({"id": window.id, "object": "live.frames", "numbers": numbers})

    async def _live_ask(self, request: Request) -> Response:
        window = self._windows.find(request.path_params["id"])
        asked = await _read(request, LiveQuestion)
        question = live_question(asked, self.settings.limits)
        answer = ChatAnswer(window.card.id, window.card.fingerprint)
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        return await self._completion(
            request,
            window.card,
            lambda m, h: m.ask_window(window.live, question, h),
            answer,
            stream=bool(asked.stream),
            usage=usage,
        )

    async def _live_sources(self, request: Request) -> Response:
        entries = [{"id": name, "object": "live.source"} for name in self._sources.names]
        return JSONResponse({"object": "list", "data": entries})

    async def _live_socket(self, socket: WebSocket) -> None:
        await self._sockets.serve(socket)

    def _pictures(self, asked: FramesRequest) -> list[Picture]:
        if len(asked.images) > self.settings.limits.media:
            raise wrong("images", f"{len(asked.images)} images are more than {self.settings.limits.media}")
        urls = [image if isinstance(image, str) else image.url for image in asked.images]
        return [self._reader.picture(url, "auto", f"images.{number}") for number, url in enumerate(urls)]

    # Answers.

    async def _completion(
        self,
        request: Request,
        card: Card,
        run: Callable[[LoadedModel, Handle], None],
        answer: ChatAnswer,
        *,
        stream: bool,
        usage: bool,
        timings: bool = False,
    ) -> Response:
        handle = self._jobs.submit(card, request.scope["edge_interleave.client"], run)
        if not stream:
            ended, scores = await self._whole(handle, request.receive, card)
            return JSONResponse(answer.whole(ended, scores))

        async def lines() -> AsyncIterator[bytes]:
            try:
                events = self._jobs.counting(handle.events(), card)
                async for chunk in answer.chunks(events, with_usage=usage, with_timings=timings):
                    yield event_line(chunk)
                yield DONE_LINE
            except ApiError as error:
                yield event_line(error.body())

        return await _stream(lines(), handle, request.receive)

    async def _whole(self, handle: Handle, receive: Receive, card: Card) -> tuple[Ended, list[TokenScore]]:
        """Wait for the whole answer; returns its `Ended` event and the scores of its tokens. Raises ApiError."""
        scores: list[TokenScore] = []
        watch = Watch(handle, receive)
        try:
            async for event in self._jobs.counting(handle.events(), card):
                if isinstance(event, Piece):
                    scores += event.scores
                elif isinstance(event, Ended):
                    return event, [*scores, *event.scores]
        finally:
            watch.end()
        raise AssertionError("events end with Ended")


async def _stream(lines: AsyncIterator[bytes], handle: Handle, receive: Receive) -> Response:
    """A streamed response that starts at the first event, so earlier errors get their own status code."""
    watch = Watch(handle, receive)
    try:
        await handle.begun()
    except BaseException:
        watch.end()
        raise
    return _EventStream(lines, watch)


class _EventStream(Response):
    """Sends lines as they are produced (server-sent events)."""

    def __init__(self, lines: AsyncIterator[bytes], watch: Watch) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )
        del self.headers["content-length"]
        self._lines = lines
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for line in self._lines:
                await send({"type": "http.response.body", "body": line, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._watch.end()


class _RequestCounter:
    """Counts responses by route and status."""

    def __init__(self, app: ASGIApp, count: Callable[[str, int], None]) -> None:
        self._app = app
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counting(message: Any) -> None:
            if message["type"] == "http.response.start":
                endpoint = scope.get("endpoint")
                self._count(getattr(endpoint, "__name__", "unknown").strip("_"), message["status"])
            await send(message)

        await self._app(scope, receive, counting)


async def _read(request: Request, model: type[_M], *, or_default: bool = False) -> _M:
    """Parse the body; with `or_default` an empty one means all defaults. Raises ApiError naming the wrong field."""
    # Not `request.body()`, which would keep the bytes for as long as the request lives.
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
    if not body and or_default:
        return model()
    return await run_in_threadpool(parse, model, bytes(body))


async def _error_response(request: Request, error: Exception) -> Response:
    answer = api_error(error)
    if answer.status >= 500 and not isinstance(error, ApiError):
        LOG.error("request failed", exc_info=error)
    return JSONResponse(answer.body(), status_code=answer.status, headers=dict(answer.headers))


async def _http_error(request: Request, error: HTTPException) -> Response:
    messages = {404: f"no route {shown(request.url.path, 80)} here", 405: "this route does not take this method"}
    answer = ApiError(error.status_code, messages.get(error.status_code, str(error.detail)), None, "not_found")
    if error.status_code == 405:
        answer.code = "method_not_allowed"
    headers = {**(error.headers or {}), **answer.headers}
    return JSONResponse(answer.body(), status_code=answer.status, headers=headers)


async def _client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)
