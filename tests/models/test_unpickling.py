"""A bundle's pickles hold numpy arrays in plain containers; everything else is refused, and nothing is ever called."""

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from models.errors import BundleError, BundleFormatError, UnsafePickle
from models.unpickling import DTYPES, PROTOCOL, dumps, loads

PATH = Path("sections/fan/00.pkl")

arrays = npst.arrays(
    st.sampled_from([np.dtype(code) for code in sorted(DTYPES)]), npst.array_shapes(min_dims=0, max_dims=3, min_side=0)
)
leaves = arrays | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=8
)


def assert_same(found: Any, given: Any) -> None:
    assert type(found) is type(given)
    if isinstance(given, dict):
        assert list(found) == list(given)
        for name, value in given.items():
            assert_same(found[name], value)
    elif isinstance(given, list):
        assert len(found) == len(given)
        for one, other in zip(found, given, strict=True):
            assert_same(one, other)
    elif isinstance(given, np.ndarray):
        assert found.dtype == given.dtype
        np.testing.assert_array_equal(found, given, strict=True)
    else:
        assert found == given


class Calls:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments

    def __repr__(self) -> str:
        return f"Calls({self.function.__name__})"


class Subclass(np.ndarray):
    """An array that could do anything when it is made."""


@given(values)
@settings(max_examples=100, deadline=None)
def test_plain_values_survive(value: Any) -> None:
    assert_same(loads(dumps(value), PATH), value)


def test_equal_values_give_equal_bytes() -> None:
    """Whatever shares memory: else the same training could give two bundle ids."""
    shared = np.arange(6.0).reshape(2, 3)
    name = "".join(["mea", "ns"])
    assert dumps({"means": shared, "b": [shared, shared]}) == dumps(
        {name: shared.copy(), "b": [shared.copy(), shared.copy()]}
    )


def test_fortran_order_survives() -> None:
    value = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(loads(dumps(value), PATH), value)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Calls(os.system, "touch pwned"), "posix.system"),
        (Calls(eval, "1"), "eval"),
        (Calls(np.load, "x.npy"), "numpy.load"),
        (OrderedDict(a=1), "collections.OrderedDict"),
        (Path("x"), "Path"),
        (np.float64(1.0), "multiarray.scalar"),
        (np.zeros(3).view(Subclass), "Subclass"),
        (np.random.default_rng(0), "numpy.random"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_any_other_class_is_refused(
    value: object, named: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the file and the class, and nothing is called."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafePickle, match=named) as refusal:
        loads(pickle.dumps({"mixture": [value]}, protocol), PATH)
    assert refusal.value.path == PATH
    assert str(PATH) in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        b"bytes",
        (1, 2),
        {1: "no text"},
        np.array([None]),
        np.zeros(2, ">f4"),
        np.zeros(2, "V8"),
        np.zeros(2, "U3"),
        np.zeros(2, [("a", "f4")]),
        np.zeros(2, "M8[s]"),
        np.ndarray,
        np.dtype("f4"),
        Calls(np.ndarray, (10**12,)),
        Calls(np.dtype, "O"),
    ],
    ids=repr,
)
def test_anything_but_plain_arrays_is_refused(value: object) -> None:
    with pytest.raises(UnsafePickle, match="more than numpy arrays"):
        loads(pickle.dumps({"a": value}, PROTOCOL), PATH)


def test_a_forged_dtype_cannot_reach_numpy() -> None:
    """A float type with the flags of an object type would make numpy free any address."""
    plain = pickle.dumps(np.zeros(1), PROTOCOL)
    before, flags, after = plain.partition(b"J\xff\xff\xff\xff" * 2 + b"K\x00t")
    assert flags
    value = loads(before + flags[:-2] + b"\x3ft" + after, PATH)
    assert value.dtype.flags == np.dtype("f8").flags


def test_a_small_pickle_cannot_be_an_endless_value() -> None:
    """A list that holds itself, and one whose parts are held many times over."""
    itself: list[object] = []
    itself.append(itself)
    wide: list[object] = []
    for _ in range(60):
        wide = [wide] * 10
    for value in (itself, wide):
        with pytest.raises(UnsafePickle, match="held twice"):
            loads(pickle.dumps(value, PROTOCOL), PATH)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(BundleFormatError, match="recursion"):
        loads(b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".", PATH)


def test_a_stand_in_cannot_be_altered() -> None:
    """A pickle may set the state of what it names; classes that outlive the pickle must not take it."""
    writer = io.BytesIO(b"\x80\x04cnumpy\ndtype\nN}U\x01xK\x01s\x86b.")
    with pytest.raises(UnsafePickle):
        loads(writer.getvalue(), PATH)
    assert_same(loads(dumps(np.zeros(2)), PATH), np.zeros(2))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_pickles_are_refused_or_plain(data: st.DataObject) -> None:
    """Whatever byte is changed, cut or added: a `BundleError` naming the file, or a plain value."""
    content = bytearray(dumps({"means": np.arange(4.0), "ranks": [np.arange(2)]}))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    try:
        value = loads(bytes(content), PATH)
    except BundleError as error:
        message = str(error)
    else:
        message = str(PATH)
        assert type(value) in (dict, list, np.ndarray, str, int, float, bool, type(None))
    assert message.startswith(str(PATH))
