"""Pickles that can hold numpy arrays in plain containers, and nothing else.

A pickle is a program. The ones of a bundle may call three names, those with which numpy writes an array, and here even
these three do not reach numpy: they stand for small classes that check what they are given and build the array from
its bytes. numpy's own ``__setstate__`` would let a forged dtype read and free any address. Conventions of the format:
protocol 4 without memo (so that equal content gives equal bytes), little-endian arrays of the types in `DTYPES`, and
dict, list, str, int, float, bool and None around them.
"""

import io
import pickle
from pathlib import Path
from typing import Any, Final, Never

import numpy as np

from models.errors import BundleFormatError, UnsafePickle

PROTOCOL: Final = 4
DTYPES: Final = frozenset({"f4", "f8", "i4", "i8", "u1", "b1"})
"""Element types that an array in a bundle may have."""

_REMEDY = "Do not load it anywhere else; get the bundle again from where it was made."


class _Dtype:
    """What a pickle may do with ``numpy.dtype``: name one of `DTYPES`, then state its byte order."""

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or code not in DTYPES:
            raise ValueError(f"an array of type {code!r}; only {', '.join(sorted(DTYPES))} are used")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", "|") or any(part is not None for part in state[2:5]):
            raise ValueError("an array type that is not plain and little-endian")


class _ArrayType:
    """Stands for ``numpy.ndarray``, which a pickle may pass to ``_reconstruct`` but not call itself."""

    def __init__(self, *_: object) -> None:
        self._refuse()

    def __setstate__(self, state: object) -> None:
        self._refuse()

    def _refuse(self) -> Never:
        raise ValueError("a call of numpy.ndarray itself")


class _Array:
    """Stands for ``_reconstruct(numpy.ndarray, (0,), b"b")`` and the state with which numpy then fills the array."""

    def __init__(self, kind: object, *_: object) -> None:
        if kind is not _ArrayType:
            raise ValueError("an array of another class than numpy.ndarray")
        self.array: np.ndarray[Any, np.dtype[Any]] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, element, is_fortran, content = state
        if type(shape) is not tuple or type(element) is not _Dtype or type(content) is not bytes:
            raise ValueError("an array whose shape, type or content is not plain")
        self.array = np.frombuffer(content, element.dtype).reshape(shape, order="F" if is_fortran else "C")


_BROKEN = (pickle.UnpicklingError, EOFError, ArithmeticError, LookupError, ImportError, MemoryError, RecursionError)
"""What the unpickler raises for bytes that are no pickle, beside the errors of the stand-ins."""

_ADMITTED: Final[dict[tuple[str, str], type]] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _ArrayType,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
}


class _Unpickler(pickle.Unpickler):
    """Looks names up in `_ADMITTED` and imports nothing."""

    def __init__(self, content: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(content))
        self._path = path

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return what the name stands for, or refuse the pickle."""
        try:
            return _ADMITTED[module_name, global_name]
        except KeyError:
            raise UnsafePickle(
                self._path,
                f"the pickle names {module_name}.{global_name}; a bundle's pickles hold numpy arrays only. {_REMEDY}",
            ) from None

    def persistent_load(self, pid: object) -> Never:
        """Refuse references to objects outside the pickle."""
        raise UnsafePickle(self._path, f"the pickle refers to something outside itself ({pid!r}). {_REMEDY}")


def dumps(value: object) -> bytes:
    """Pickle plain containers of numpy arrays; equal values give equal bytes, whatever shares memory with what."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, PROTOCOL)
    pickler.fast = True
    pickler.dump(value)
    return file.getvalue()


def loads(content: bytes, path: Path) -> Any:
    """Unpickle plain containers of numpy arrays.

    Parameters
    ----------
    content : the pickle, whose digest has been checked.
    path : the file it was read from, named in errors.

    Returns
    -------
    The value; its arrays are read-only.

    Raises
    ------
    UnsafePickle : where it names any other class or function, or holds anything but arrays and plain values.
    BundleFormatError : where it is no whole pickle.
    """
    try:
        value = _Unpickler(content, path).load()
        return _plain(value, set())
    except (ValueError, TypeError, AttributeError) as error:
        raise UnsafePickle(path, f"the pickle holds more than numpy arrays ({error}). {_REMEDY}") from error
    except _BROKEN as error:
        raise BundleFormatError(path, f"no whole pickle ({error}). Get the bundle again.") from error


def _plain(value: object, seen: set[int]) -> Any:
    """``value`` with the stand-ins replaced by their arrays; what is not plain is refused.

    ``seen``: the containers met so far. No container comes twice, or a small pickle could be an endless value.
    """
    if type(value) in (dict, list):
        if id(value) in seen:
            raise ValueError(f"a {type(value).__name__} that is held twice")
        seen.add(id(value))
    if type(value) is dict:
        return {_key(key): _plain(inner, seen) for key, inner in value.items()}
    if type(value) is list:
        return [_plain(inner, seen) for inner in value]
    if type(value) is _Array and value.array is not None:
        return value.array
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise ValueError(f"a {type(value).__name__.lstrip('_').lower()}")


def _key(key: object) -> str:
    if type(key) is not str:
        raise ValueError(f"a key {key!r} that is no text")
    return key
