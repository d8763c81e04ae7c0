"""Reading requests: bodies bounded while they are read, parameters checked by name, deadlines and lost clients.

Bodies are read here and not by the framework, because a clip may come as a multipart field or as the whole body, must
never be larger than promised whatever its headers say, and is never written to a disk.
"""

import asyncio
import io
import json
import re
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Coroutine, Iterable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from service.admission import Hold
from service.errors import BodyTooLarge, ClientGone, MalformedRequest, UnsupportedContentType
from service.multipart import Form, read_parts

AUDIO_TYPES = frozenset(
    {
        *("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"),
        *("audio/flac", "audio/x-flac", "audio/ogg", "application/ogg"),
    }
)
MULTIPART = "multipart/form-data"
JSON = "application/json"
_MOST_JSON_BYTES = 4096
_FORM_OVERHEAD_BYTES = 64 * 1024
"""What boundaries, part headers and text fields may add to the clips of a multipart body."""
KEY_PATTERN = r"[\x21-\x7e]{1,255}"

Result = TypeVar("Result")
Parameters = TypeVar("Parameters", bound=BaseModel)


def content_type(request: Request) -> str:
    """The media type of the body, without parameters."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


async def read_audio(request: Request, limit: int, hold: Hold) -> bytes:
    """The whole body as one clip, of ``limit`` bytes at most."""
    body = io.BytesIO()
    async for chunk in _bounded(request, limit, hold):
        body.write(chunk)
    return body.getvalue()  # the buffer itself, not a copy of it


async def read_form(request: Request, limit: int, hold: Hold) -> Form:
    """A multipart body, of ``limit`` bytes (and a little for its boundaries) at most."""
    return await read_parts(
        request.headers.get("content-type", ""), _bounded(request, limit, hold, _FORM_OVERHEAD_BYTES)
    )


async def _bounded(request: Request, limit: int, hold: Hold, overhead: int = 0) -> AsyncGenerator[bytes, None]:
    declared = request.headers.get("content-length", "")
    received = 0
    if declared.isdigit() and int(declared) > limit + overhead:
        raise _too_large(int(declared), limit)
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit + overhead:
            raise _too_large(received, limit)
        hold(len(chunk))
        yield chunk


async def read_json(request: Request, model: type[Parameters], hold: Hold) -> Parameters:
    """A small JSON body as ``model``: each name once, none missing, none unknown.

    Raises
    ------
    MalformedRequest, UnsupportedContentType
    """
    if content_type(request) != JSON:
        raise unsupported(request, [JSON])
    body = b"".join([chunk async for chunk in _bounded(request, _MOST_JSON_BYTES, hold)])
    try:
        wanted = model.model_validate_json(body)
    except ValidationError as error:
        wrong = [(".".join(map(str, one["loc"])) or "the body", one["msg"]) for one in error.errors()]
        detail = "; ".join(f"{name[:80]}: {message}" for name, message in wrong)
        raise MalformedRequest(
            f"{detail[:400]}. See /docs for what is expected.", [name for name, _ in wrong]
        ) from error
    json.loads(body, object_pairs_hook=_each_once)  # pydantic would take the last of several, in silence
    return wanted


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _refuse_repeated(name for name, _ in pairs)
    return dict(pairs)


def _refuse_repeated(names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise MalformedRequest(f"Given more than once: {', '.join(twice)}. Send each field once.", twice)


def _too_large(size: int, limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The body has {size} bytes or more; {limit} are accepted. Send less; of clips, shorter ones, or one channel "
        "at 16 kHz."
    )


def refuse_unknown(kind: str, names: Collection[str], known: Collection[str]) -> None:
    """Raise `MalformedRequest` naming every one of ``names`` that is not ``known``."""
    unknown = sorted(set(names) - set(known))
    if unknown:
        expected = f"Known are {', '.join(sorted(known))}." if known else "There are none here."
        raise MalformedRequest(f"Unknown {kind}: {', '.join(name[:80] for name in unknown)}. {expected}", unknown)


def parameters(model: type[Parameters], pairs: Collection[tuple[str, str]]) -> Parameters:
    """The query's or form's text fields as ``model``; each field once, none missing, none unknown."""
    counts = Counter(name for name, _ in pairs)
    refuse_unknown("field", counts, model.model_fields)
    missing = [name for name, one in model.model_fields.items() if one.is_required() and name not in counts]
    if missing:
        raise MalformedRequest(f"Missing: {', '.join(missing)}. {_how_to_send(missing)}", missing)
    _refuse_repeated(name for name, _ in pairs)
    try:
        return model.model_validate(dict(pairs))
    except ValidationError as error:
        wrong = [(str(one["loc"][0]), str(one["input"])[:80], one["msg"]) for one in error.errors()]
        detail = "; ".join(f"{name} is {value!r}: {message}" for name, value, message in wrong)
        raise MalformedRequest(f"{detail}.", [name for name, _, _ in wrong]) from error


def _how_to_send(names: Collection[str]) -> str:
    return (
        f"Send {'it' if len(names) == 1 else 'them'} as form fields of a multipart body, or in the query of a raw one."
    )


def one_file(form: Form, name: str = "audio") -> bytes:
    """The one file of a form that must hold exactly one."""
    files = many_files(form, name)
    if len(files) > 1:
        raise MalformedRequest(f"{len(files)} files were sent in {name!r}; POST /score takes one.", [name])
    return files[0]


def many_files(form: Form, name: str = "audio") -> list[bytes]:
    """The files of field ``name``, at least one, and no other file."""
    refuse_unknown("file field", {field for field, _ in form.files}, {name})
    if any(field == name for field, _ in form.texts):
        raise MalformedRequest(
            f"{name!r} must be a file: give it a file name (with curl: -F {name}=@clip.wav).", [name]
        )
    if not form.files:
        raise MalformedRequest(
            f"Missing: {name}. Send the clip as a file field (with curl: -F {name}=@clip.wav).", [name]
        )
    return [content for _, content in form.files]


def unsupported(request: Request, accepted: Collection[str]) -> UnsupportedContentType:
    """The refusal of a body whose content type is none of ``accepted``."""
    given = request.headers.get("content-type")
    what = f"The content type {given[:120]!r} is not read here" if given else "The request has no content type"
    return UnsupportedContentType(f"{what}; send {' or '.join(sorted(accepted))}.")


def idempotency_key(request: Request) -> str | None:
    """The Idempotency-Key of a request, if it has one."""
    key = request.headers.get("idempotency-key")
    if key is not None and not re.fullmatch(KEY_PATTERN, key):
        raise MalformedRequest("The Idempotency-Key must have 1 to 255 visible ASCII characters.", ["Idempotency-Key"])
    return key


def deadline(request: Request, timeout_s: float) -> float:
    """When the answer is due, on the event loop's clock: the service's limit, or the client's shorter one."""
    asked = request.headers.get("x-request-timeout-ms")
    if asked is not None:
        if not re.fullmatch(r"[0-9]{1,9}", asked) or int(asked) == 0:
            raise MalformedRequest(
                f"X-Request-Timeout-Ms is {asked[:80]!r}: give a whole number of milliseconds, 1 or more.",
                ["X-Request-Timeout-Ms"],
            )
        timeout_s = min(timeout_s, int(asked) / 1000.0)
    arrived: float = request.scope["state"]["arrived"]
    return arrived + timeout_s


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work``, cancelled when the client closes the connection; the body must have been read."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnection(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone("The client closed the connection before the answer.")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnection(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
