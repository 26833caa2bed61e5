"""Checkpoints: trees of tensors and plain values in files that every reader of safetensors opens, and that no crash can tear.

A tree is made of dicts with text as keys, lists and tuples. Its leaves are Tensors, NumPy arrays, None, bool, int, float, str.
The tensors stand in the file under their paths (`model.0.weight`). The rest is JSON in the file's metadata, under "needle":

    {"version": 1, "tree": node}

    node = null | true | 1 | 0.5 | "text" | [node, ...]      what JSON has
         | {"dict": {key: node, ...}} | {"tuple": [node, ...]}
         | {"tensor": name} | {"array": name}                a Tensor or a NumPy array, by its name in the file
         | {"float": "nan"}                                  what JSON lacks: nan, inf, -inf

Loading builds data and runs no code. Equal trees give equal files, byte for byte.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from needle_core.backend import DeviceLike, default_device, device as find_device
from needle_core.errors import CheckpointError
from needle_core.spec import Device
from needle_core.tensor import Tensor

__all__ = ["save", "load", "read_file", "replace_file"]

_VERSION: Final = 1
_KEY: Final = "needle"
_RESERVED: Final = "__metadata__"  # by safetensors


def save(path: str | os.PathLike[str], tree: Any) -> None:
    """Write `tree` to `path`, replacing what was there in one step: whatever happens, the file is the old one or the new one.

    Only one process at a time may write to a path.

    Raises:   CheckpointError, with the file untouched, for a value that does not belong in a tree or a disk that refuses
    """
    from safetensors.numpy import save as serialized

    arrays: dict[str, npt.NDArray[Any]] = {}
    header = {"version": _VERSION, "tree": _encode(tree, (), arrays)}
    content = serialized(arrays, metadata={_KEY: json.dumps(header, allow_nan=False)})
    replace_file(path, content)


def load(path: str | os.PathLike[str], *, device: DeviceLike | None = None) -> Any:
    """The tree in `path`, its tensors on `device`, by default the default device, wherever they were when it was saved.

    Raises:   CheckpointError for a file that is missing, truncated, no checkpoint, or of another version of the format
    """
    where = default_device() if device is None else find_device(device)
    header, arrays = _read(Path(path))
    try:
        found = json.loads(header)
        version = found["version"]
        if version == _VERSION:
            return _decode(found["tree"], arrays, where)
    except (ValueError, LookupError, TypeError, AttributeError) as cause:
        raise CheckpointError(f"{path}: its metadata do not describe a checkpoint", details={"found": repr(cause)}) from cause
    raise CheckpointError(f"{path}: a checkpoint in version {version} of the format; this release reads version {_VERSION}")


def _read(path: Path) -> tuple[str, dict[str, npt.NDArray[Any]]]:
    """The JSON and the arrays of a checkpoint."""
    metadata, arrays = read_file(path)
    if _KEY not in metadata:
        hint = "nn.pytorch.load takes the states of PyTorch's models; safetensors.numpy.load_file reads any"
        raise CheckpointError(f"{path}: a safetensors file, but not a checkpoint", hint=hint)
    return metadata[_KEY], arrays


def read_file(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, npt.NDArray[Any]]]:
    """The metadata and the arrays of a safetensors file.

    Raises:   CheckpointError for a file that is missing, truncated or none of safetensors
    """
    import ml_dtypes  # noqa: F401  (with it, NumPy knows bfloat16 by name)
    from safetensors import SafetensorError, safe_open

    open_file: Any = safe_open  # whose type hints are incomplete
    try:
        with open_file(path, framework="numpy") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it has no __iter__)
    except FileNotFoundError as cause:
        raise CheckpointError(f"{path}: there is no such file") from cause
    except (OSError, SafetensorError) as cause:
        raise CheckpointError(f"{path}: truncated, or no safetensors file", details={"found": cause}) from cause


def _encode(value: Any, place: tuple[str | int, ...], arrays: dict[str, npt.NDArray[Any]]) -> Any:
    """The node for `value`; the arrays that it names go to `arrays`. Exact types only: a subclass would not come back."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if kind is list:
        return [_encode(item, (*place, i), arrays) for i, item in enumerate(value)]
    if kind is tuple:
        return {"tuple": [_encode(item, (*place, i), arrays) for i, item in enumerate(value)]}
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise CheckpointError(f"the keys of dicts in a checkpoint are text, not {key!r}", details={"at": _shown(place)})
        return {"dict": {key: _encode(item, (*place, key), arrays) for key, item in value.items()}}
    if isinstance(value, Tensor):
        return {"tensor": _store(value.numpy(), place, arrays)}
    if kind is np.ndarray and ((value.dtype.kind in "biuf" and value.itemsize <= 8) or value.dtype.name == "bfloat16"):
        return {"array": _store(value, place, arrays)}
    what = f"arrays of {value.dtype}" if kind is np.ndarray else f"{kind.__module__}.{kind.__qualname__}"
    hint = "save its state_dict()" if hasattr(value, "state_dict") else None
    raise CheckpointError(f"a checkpoint cannot hold {what}", details={"at": _shown(place)}, hint=hint)


def _store(array: npt.NDArray[Any], place: tuple[str | int, ...], arrays: dict[str, npt.NDArray[Any]]) -> str:
    """Enter `array` under a name like its path, changed only where two paths read alike ({"a": {"b": x}, "a.b": y})."""
    name = ".".join(map(str, place)) or "value"
    while name in arrays or name == _RESERVED:
        name += "'"
    arrays[name] = np.asarray(array, order="C")
    return name


def _shown(place: tuple[str | int, ...]) -> str:
    return "tree" + "".join(f"[{step!r}]" for step in place)


def _decode(node: Any, arrays: dict[str, npt.NDArray[Any]], device: Device) -> Any:
    if isinstance(node, list):
        return [_decode(item, arrays, device) for item in node]
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    match kind:
        case "dict":
            return {key: _decode(item, arrays, device) for key, item in content.items()}
        case "tuple":
            return tuple(_decode(item, arrays, device) for item in content)
        case "tensor":
            return Tensor(arrays[content], device=device)
        case "array":
            return arrays[content]
        case "float":
            return float(content)
    raise LookupError(kind)


def replace_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Put a file with `content` in the place of `path`, in one step: it takes this name only when all of it is on the disk.

    Raises:   CheckpointError, with the old file untouched, if the disk refuses
    """
    path = Path(path)
    new = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")
    try:
        _remove_leftovers(path)
        try:
            with new.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as cause:
        raise CheckpointError(f"{path}: cannot be written: {cause.strerror or cause}") from cause


def _remove_leftovers(path: Path) -> None:
    """Remove what processes left behind that were killed while they wrote `path`."""
    temporary = re.compile(rf"\.{re.escape(path.name)}\.\d+-\d+\.tmp")
    for entry in path.parent.iterdir():
        if temporary.fullmatch(entry.name):
            entry.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk."""
    if hasattr(os, "O_DIRECTORY"):  # Windows cannot open folders, and need not
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
