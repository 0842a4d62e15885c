"""One channel to one service: deadlines, retries, tokens, watches. Knows no noun."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import random
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message import Message

from luthier.endpoints import TlsOptions
from luthier.errors import ProfileError, RpcError, UnavailableError
from luthier.options.v1 import call_policy_pb2
from luthier.status import error_from_rpc

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
TokenSource = str | Callable[[], str] | Callable[[], Awaitable[str]]

TARGET_HEADER = "x-luthier-target"
"""Names the target for load balancers, which cannot read messages: they route calls for the same weights to the same
replica (deploy/envoy).
"""

DEFAULT_DEADLINE_S = 30.0
"""For methods without `deadline` in their `luthier.options.v1.call`; documented in call_policy.proto."""

# Watches send a heartbeat every 10 seconds; three missed ones mean that the connection is gone.
WATCH_IDLE_S = 30.0
MAX_MESSAGE_BYTES = 16 * 1024 * 1024

CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Reconnects to a restarted service within two seconds; gRPC's default is up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 60_000),
    # We retry ourselves: gRPC's retries would not keep to the total deadline.
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True)
class RetryPolicy:
    """When a call that failed with UNAVAILABLE is retried, always within its total deadline.

    max_attempts: the number of calls; those after a delay that the service asked for (RetryInfo) do not count.
    reconnect_s: how long a watch or a wait goes on without an answer before it gives up.
    """

    max_attempts: int = 5
    initial_backoff_s: float = 0.1
    multiplier: float = 2.0
    max_backoff_s: float = 2.0
    reconnect_s: float = 120.0

    def backoff_s(self, attempt: int, *, rng: random.Random) -> float:
        """Wait after the `attempt`-th failure (from 1 on): exponential, half of it jitter."""
        full = min(self.max_backoff_s, self.initial_backoff_s * self.multiplier ** (attempt - 1))
        return full * (0.5 + 0.5 * rng.random())


class Transport:
    """Calls to one service at one address. The channel opens with the first call, on the loop that makes it."""

    def __init__(
        self,
        service: str,
        address: str,
        *,
        tls: TlsOptions | None = None,
        token: TokenSource | None = None,
        may_carry_tokens: bool = True,
        retry: RetryPolicy | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """`may_carry_tokens`: False makes calls with a token a `ProfileError`, before anything is sent."""
        self.service = service
        self.address = address
        self.retry = retry or RetryPolicy()
        self._tls = tls
        self._token = token
        self._may_carry_tokens = may_carry_tokens
        self._rng = rng or random.Random()  # noqa: S311 - jitter, no secret
        self._channel: list[grpc.aio.Channel] = []  # shared by all transports made with `with_token`

    def with_token(self, token: TokenSource) -> Transport:
        """A transport over the same channel that presents another token."""
        other = Transport(
            self.service,
            self.address,
            tls=self._tls,
            token=token,
            may_carry_tokens=self._may_carry_tokens,
            retry=self.retry,
            rng=self._rng,
        )
        other._channel = self._channel
        return other

    @property
    def channel(self) -> grpc.aio.Channel:
        if not self._channel:
            if not self.address:
                raise ProfileError(
                    f"no address of the {self.service} service is known; start it with `luthier up`, "
                    "or name another installation with --endpoint",
                    metadata={"service": self.service},
                )
            self._channel.append(open_channel(self.address, self._tls))
        return self._channel[0]

    async def close(self) -> None:
        """Closes the channel; calls in flight are cancelled."""
        while self._channel:
            await self._channel.pop().close(None)

    async def unary(
        self,
        call: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout_s: float | None = None,
    ) -> Response:
        """Makes a unary call; UNAVAILABLE is retried, every other status is raised as its `RpcError`.

        A request that has a `request_id` gets one if it is empty: the service does not repeat a change that a retry
        asks for again.
        """
        identified: Any = request
        if "request_id" in request.DESCRIPTOR.fields_by_name and not identified.request_id:
            identified.request_id = new_request_id()

        async def once(remaining_s: float) -> Response:
            return await call(request, timeout=remaining_s, metadata=await self.metadata(request))

        return await self._retrying(once, method_of(request.DESCRIPTOR), timeout_s=timeout_s)

    async def upload(
        self,
        call: grpc.aio.StreamUnaryMultiCallable[Request, Response],
        requests: Callable[[], AsyncIterator[Request]],
        *,
        request_type: type[Request],
        timeout_s: float | None = None,
    ) -> Response:
        """Makes a client-streaming call; a retry starts over with a new iterator of `requests`."""

        async def once(remaining_s: float) -> Response:
            return await call(requests(), timeout=remaining_s, metadata=await self.metadata())

        return await self._retrying(once, method_of(request_type.DESCRIPTOR), timeout_s=timeout_s)

    async def _retrying(
        self, once: Callable[[float], Awaitable[Response]], method: MethodDescriptor, *, timeout_s: float | None
    ) -> Response:
        """Runs `once(remaining_s)` until it answers, fails for good, or no time is left for another attempt."""
        deadline = time.monotonic() + (timeout_s or deadline_s(method))
        attempt = 0
        while True:
            try:
                return await once(max(deadline - time.monotonic(), 0.001))
            except grpc.aio.AioRpcError as failure:
                error = self.error_of(failure, method=method.name)
            attempt += error.retry_after_s is None
            await self._pause(error, attempt=attempt, deadline=deadline)

    async def _pause(self, error: RpcError, *, attempt: int, deadline: float) -> None:
        """Waits before the next attempt, or raises `error` if there is none."""
        if not isinstance(error, UnavailableError) or attempt >= self.retry.max_attempts:
            raise error
        delay_s = self.retry.backoff_s(max(attempt, 1), rng=self._rng)
        if error.retry_after_s is not None:
            delay_s = max(error.retry_after_s, delay_s)
        if time.monotonic() + delay_s >= deadline:
            raise error
        await asyncio.sleep(delay_s)

    async def stream(
        self,
        call: grpc.aio.UnaryStreamMultiCallable[Request, Response],
        request: Request,
        *,
        timeout_s: float | None = None,
        idle_s: float | None = None,
    ) -> AsyncGenerator[Response, None]:
        """Yields the messages of a server stream. Retried only before the first message. Closing the iterator cancels
        the call. timeout_s 0: no total deadline. idle_s: longest silence; a longer one is an `UnavailableError`.
        """
        method = method_of(request.DESCRIPTOR)
        total_s = deadline_s(method) if timeout_s is None else timeout_s
        deadline = time.monotonic() + total_s if total_s else float("inf")
        attempt, received = 0, False
        while True:
            remaining_s = None if deadline == float("inf") else max(deadline - time.monotonic(), 0.001)
            running = call(request, timeout=remaining_s, metadata=await self.metadata(request))
            try:
                while (message := await self._read(running, idle_s, method.name)) is not None:
                    received = True
                    yield message
                return  # noqa: TRY300 - the loop's other exits are retries
            except grpc.aio.AioRpcError as failure:
                error = self.error_of(failure, method=method.name)
            finally:
                running.cancel()
            if received:
                raise error
            attempt += error.retry_after_s is None
            await self._pause(error, attempt=attempt, deadline=deadline)

    async def _read(
        self, running: grpc.aio.UnaryStreamCall[Request, Response], idle_s: float | None, method: str
    ) -> Response | None:
        """The next message; None at the end."""
        try:
            async with asyncio.timeout(idle_s):
                message = await running.read()
        except TimeoutError:
            raise UnavailableError(
                f"the {self.service} service at {self.address} has sent nothing for {idle_s:.0f} s on {method}",
                reason="STREAM_SILENT",
                metadata={"service": self.service, "address": self.address, "method": method},
                service=self.service,
                method=method,
            ) from None
        return cast(Response, message) if isinstance(message, Message) else None  # else it is grpc.aio.EOF

    async def watch(
        self,
        call: grpc.aio.UnaryStreamMultiCallable[Request, Any],
        request_after: Callable[[int], Request],
        *,
        after_event_id: int,
        is_final: Callable[[Any], bool],
        is_over: Callable[[], Awaitable[bool]],
        on_away: Callable[[UnavailableError], None] | None = None,
    ) -> AsyncIterator[Any]:
        """Yields events in order, each once, without heartbeats, until the resource is final.

        When the service goes away, or is silent for `WATCH_IDLE_S`, the stream is reopened after the last id seen, for
        up to `retry.reconnect_s`. A stream that ended early (a service that shuts down) is distinguished from one that
        is complete by the final event or by `is_over()`. on_away is called once per outage.
        """
        last_id, attempt, patience = after_event_id, 0, Patience(self.retry.reconnect_s)
        while True:
            try:
                stream = self.stream(call, request_after(last_id), timeout_s=0, idle_s=WATCH_IDLE_S)
                async with contextlib.aclosing(stream) as messages:
                    async for message in messages:
                        attempt = 0
                        patience.renew()
                        event = message.event
                        if event.event_id <= last_id:
                            continue
                        last_id = event.event_id
                        yield event
                        if is_final(event):
                            return
                if await is_over():
                    return
            except UnavailableError as error:
                if on_away is not None and not patience.is_tried:
                    on_away(error)
                patience.spend(error)
            attempt += 1
            await asyncio.sleep(self.retry.backoff_s(attempt, rng=self._rng))

    async def metadata(self, request: Message | None = None) -> grpc.aio.Metadata:
        """Metadata of a call: the bearer token, an id that the service logs, and the request's target if it has one."""
        pairs: list[tuple[str, str]] = [("x-request-id", str(uuid.uuid4()))]
        token = self._token() if callable(self._token) else self._token
        if inspect.isawaitable(token):
            token = await token
        if token and not self._may_carry_tokens:
            raise ProfileError(
                f"{self.address} is another machine and the connection is in plain text: the token was not sent; set "
                "`tls` in the profile, or allow it with LUTHIER_INSECURE_NETWORK=1 if the network itself encrypts",
                reason="TOKEN_IN_PLAIN_TEXT",
                metadata={"service": self.service, "address": self.address},
            )
        if token:
            pairs.append(("authorization", f"Bearer {token}"))
        target = getattr(request, "target", None)
        if isinstance(target, Message) and (kind := target.WhichOneof("target")):
            pairs.append((TARGET_HEADER, getattr(target, kind)))
        return grpc.aio.Metadata(*pairs)

    def error_of(self, failure: grpc.aio.AioRpcError, *, method: str) -> RpcError:
        error = error_from_rpc(failure, service=self.service, address=self.address, method=method)
        error.__cause__ = failure
        return error


class Patience:
    """How long to tolerate a service that does not answer; any answer resets it."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since: float | None = None

    @property
    def is_tried(self) -> bool:
        """Whether the last attempt failed."""
        return self._since is not None

    def renew(self) -> None:
        self._since = None

    def spend(self, error: UnavailableError) -> None:
        """Raises `error` if the service has been away for longer than the limit."""
        now = time.monotonic()
        self._since = self._since or now
        if now - self._since > self._limit_s:
            raise error


@functools.cache
def method_of(request: Descriptor) -> MethodDescriptor:
    """The method that takes this message: each has its own request, declared in the file of its service."""
    methods = (method for service in request.file.services_by_name.values() for method in service.methods)
    return next(method for method in methods if method.input_type.full_name == request.full_name)


@functools.cache
def deadline_s(method: MethodDescriptor) -> float:
    """How long a call waits if its caller names no deadline."""
    policy = method.GetOptions().Extensions[call_policy_pb2.call]
    return policy.deadline.ToTimedelta().total_seconds() if policy.HasField("deadline") else DEFAULT_DEADLINE_S


def new_request_id() -> str:
    """Makes a mutating call safe to retry."""
    return str(uuid.uuid4())


def open_channel(address: str, tls: TlsOptions | None) -> grpc.aio.Channel:
    if tls is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=tls.ca_file.read_bytes() if tls.ca_file else None,
        private_key=tls.key_file.read_bytes() if tls.key_file else None,
        certificate_chain=tls.cert_file.read_bytes() if tls.cert_file else None,
    )
    options = CHANNEL_OPTIONS + ((("grpc.ssl_target_name_override", tls.server_name),) if tls.server_name else ())
    return grpc.aio.secure_channel(address, credentials, options=options)
