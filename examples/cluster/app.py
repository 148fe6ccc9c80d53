"""Several `ferrum-wgpu serve` behind Ray Serve: health checks, restarts, and prefix-aware routing.

    MODEL=models/demo-q4_k_m.gguf REPLICAS=2 serve run examples.cluster.app:app

Each replica is a process of its own, on a GPU of its own if the cluster has GPUs (GPUS=1). A conversation goes to the
replica that has its beginning in the KV cache. What a replica did not answer is asked of another one.
"""

import asyncio
import hashlib
import json
import logging
import os
import shlex
from collections.abc import AsyncIterator
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

PROGRAM = os.environ.get("FERRUM", "ferrum-wgpu")
MODEL = os.environ.get("MODEL", "models/demo-q4_k_m.gguf")
# More options of `serve`, such as "--parallel 8 --ctx 8192".
OPTIONS = shlex.split(os.environ.get("OPTIONS", "--parallel 4"))
REPLICAS = int(os.environ.get("REPLICAS", "2"))
GPUS = float(os.environ.get("GPUS", "0"))
# Requests in progress at a replica; further ones go to the next in the order of the key.
ONGOING = int(os.environ.get("ONGOING", "16"))
ATTEMPTS = 3
FORWARDED = {"content-type", "authorization", "x-api-key", "anthropic-version"}

log = logging.getLogger("ray.serve")
web = FastAPI()


def prefix_key(body: bytes) -> str:
    """Returns the beginning of a prompt that later requests share: all turns of a conversation have the same."""
    try:
        request = json.loads(body)
    except ValueError:
        return ""
    if not isinstance(request, dict):
        return ""
    beginning: list[Any] = [request.get("system"), request.get("tools"), request.get("prompt")]
    for message in request.get("messages") or []:
        beginning.append(message)
        if isinstance(message, dict) and message.get("role") == "user":
            break
    return json.dumps(beginning)[:16384]


class PrefixRouter(RequestRouter):
    """Orders replicas by rendezvous hashing of the prompt's beginning (Thaler and Ravishankar 1998)."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        key, attempt = "", 0
        if pending_request is not None and len(pending_request.args) >= 2:
            key, attempt = pending_request.args[:2]

        def weight(replica: RunningReplica) -> bytes:
            return hashlib.sha256(f"{replica.replica_id.unique_id} {key}".encode()).digest()

        order = sorted(candidate_replicas, key=weight)
        # Another attempt begins at another replica.
        turn = attempt % len(order) if order else 0
        return [[replica] for replica in order[turn:] + order[:turn]]


@serve.deployment(
    num_replicas=REPLICAS,
    max_ongoing_requests=ONGOING,
    health_check_period_s=2,
    health_check_timeout_s=10,
    graceful_shutdown_timeout_s=30,
    ray_actor_options={"num_cpus": 1, "num_gpus": GPUS},
    request_router_config=RequestRouterConfig(request_router_class=PrefixRouter),
)
class Replica:
    """A `serve` process."""

    async def __init__(self) -> None:
        command = [PROGRAM, "serve", MODEL, "--port", "0", *OPTIONS]
        self.process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        assert self.process.stderr is not None
        address = None
        async for line in self.process.stderr:
            text = line.decode().strip()
            log.info(text)
            if text.startswith("listening on "):
                address = text.removeprefix("listening on ")
            if text == "ready":
                break
        else:
            raise RuntimeError(f"{PROGRAM} serve did not start")
        # What it writes later must not fill the pipe.
        self.drain = asyncio.create_task(self.process.stderr.read())
        self.client = httpx.AsyncClient(base_url=address, timeout=httpx.Timeout(10, read=3600))

    async def check_health(self) -> None:
        """Ray calls it, and replaces a replica for which it fails."""
        if self.process.returncode is not None:
            raise RuntimeError(f"the server ended with status {self.process.returncode}")
        (await self.client.get("/health")).raise_for_status()

    async def pid(self) -> int:
        return self.process.pid

    async def relay(
        self, key: str, attempt: int, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> AsyncIterator[Any]:
        """Yields the head of the response, then its body."""
        async with self.client.stream(method, path, headers=headers, content=body) as response:
            if response.status_code == 503:
                raise RuntimeError("the replica is not ready")
            chunks = response.aiter_raw()
            # A response counts as begun with its first bytes.
            first = await anext(chunks, b"")
            yield response.status_code, response.headers.get("content-type"), response.headers.get("retry-after")
            yield first
            async for chunk in chunks:
                yield chunk

    def __del__(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()


async def rest(first: bytes, stream: Any) -> AsyncIterator[bytes]:
    """Yields the body of a response. If its replica is lost, the last event says so."""
    yield first
    try:
        async for chunk in stream:
            yield chunk
    except (RayError, RuntimeError, httpx.HTTPError):
        error = {"message": "the replica was lost", "type": "server_error", "param": None, "code": "replica_lost"}
        yield f"data: {json.dumps({'error': error})}\n\n".encode()


@serve.deployment(num_replicas=1, max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0.5})
@serve.ingress(web)
class Ingress:
    """The address of the cluster."""

    def __init__(self, replicas: Any) -> None:
        self.replicas = replicas.options(stream=True)

    @web.get("/health")
    async def health(self) -> dict[str, str]:
        return {"status": "ok"}

    @web.api_route("/{path:path}", methods=["GET", "POST"])
    async def any(self, request: Request) -> Response:
        body = await request.body()
        headers = {name: value for name, value in request.headers.items() if name in FORWARDED}
        for attempt in range(ATTEMPTS):
            stream = self.replicas.relay.remote(
                prefix_key(body), attempt, request.method, request.url.path, headers, body
            )
            try:
                status, kind, retry_after = await anext(stream)
                first = await anext(stream)
            except (RayError, RuntimeError, httpx.HTTPError, StopAsyncIteration) as error:
                log.warning("attempt %d: %s", attempt, type(error).__name__)
                continue
            more = {"retry-after": retry_after} if retry_after else {}
            return StreamingResponse(rest(first, stream), status, more, kind)
        message = "no replica answered"
        return JSONResponse(
            {"error": {"message": message, "type": "unavailable_error", "param": None, "code": "no_replica"}},
            503,
            {"retry-after": "1"},
        )


app = Ingress.bind(Replica.bind())
