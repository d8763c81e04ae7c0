"""What schemathesis cannot guess (``SCHEMATHESIS_HOOKS``): some files are clips, and half of the names are known ones.

Without these almost every request would end at its first name or its first bytes.
"""

import re
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis import HookContext

from models.vocabulary import NAME_PATTERN
from service.requests import AUDIO_TYPES
from tests.service.bundles import FAN_0, sound, wav
from tests.service.damage import FIELDS

_KNOWN = {**FIELDS, "version": 1}
_ALLOWED = {
    "machine_type": NAME_PATTERN,
    "section": NAME_PATTERN,
    "domain": "^(source|target)$",
    "version": "^[1-9][0-9]*$",
}
_CLIPS = [wav(sound(FAN_0, seed, seconds=2.0, target=True)) for seed in range(970, 976)]

_binary = st.sampled_from([*_CLIPS, b"RIFF"]) | st.binary(max_size=200)
schemathesis.openapi.format("binary", _binary)
for media_type in sorted(AUDIO_TYPES):
    schemathesis.openapi.media_type(media_type, _binary)


def _known(given: Any) -> st.SearchStrategy[Any]:
    """``given``, or the same with names that the service knows and a version that it may; what is wrong stays wrong."""
    if not isinstance(given, dict):
        return st.just(given)
    allowed = {name for name in given if name in _KNOWN and re.fullmatch(_ALLOWED[name], str(given[name]))}
    known = {**given, **{name: _KNOWN[name] for name in allowed}}
    return st.sampled_from([known, given])


@schemathesis.hook
def flatmap_path_parameters(context: HookContext, path_parameters: Any) -> st.SearchStrategy[Any]:
    return _known(path_parameters)


@schemathesis.hook
def flatmap_query(context: HookContext, query: Any) -> st.SearchStrategy[Any]:
    return _known(query)


@schemathesis.hook
def flatmap_body(context: HookContext, body: Any) -> st.SearchStrategy[Any]:
    return _known(body)
