"""The Python values that a captured function depends on, and whether any has changed.

A graph holds what the function computed with `model.training`, a layer, a list or a global as they were. `Guards` finds what
the function can reach and remembers it; `hold` then compares object by object in C. No method of a guarded object is called:
equality of tensors is elementwise, and that of strangers may do anything.

Guarded are closure variables, globals and defaults of the function and of the user's functions that it names; lists, dicts and
sets; everything in Modules and Optimizers; of other objects the attributes that the code names. Not seen are attributes whose
name is only computed, as in `getattr(self, f"w{i}")`, changes inside of installed libraries, and elements of large arrays.
"""

from __future__ import annotations

import dis
import functools
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Set as AbstractSet
from itertools import chain, repeat
from operator import attrgetter, call, is_
from pathlib import Path
from types import CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, Final, NamedTuple

import numpy as np

from needle_core.errors import CompileError, brief
from needle_core.nn.module import Module
from needle_core.optim import Group, Optimizer
from needle_core.tensor import Tensor

VALUES: Final = 20_000
"""So many values a function may depend on. Comparing them takes 0.4 ms."""

ARRAY_BYTES: Final = 1 << 16
"""NumPy arrays up to this size are compared by their elements, too; larger ones are taken to stay as they are."""

_PLAIN: Final = (type(None), bool, int, float, complex, str, bytes)
_CALLED: Final = {"forward", "__call__", "__getitem__", "__iter__", "__len__", "__contains__", "__enter__", "__exit__"}
_INNER: Final = {staticmethod: "__func__", classmethod: "__func__", property: "fget", functools.cached_property: "func"}
_LIBRARIES: Final = (
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    str(Path(__file__).parents[1]),
)
_ABSENT: Final = object()
_contents: Final = attrgetter("cell_contents")


class _Container(NamedTuple):
    """A list, dict or set that is guarded as a whole, where it was found, and whether names there are dotted as in Modules."""

    path: str
    held: Any
    dotted: bool

    def values(self) -> Any:
        """What is in it, to be iterated over and over."""
        return dict.values(self.held) if isinstance(self.held, dict) else self.held

    def now(self) -> dict[Any, Any]:
        """What is in it, by key, index or identity."""
        if isinstance(self.held, dict):
            return dict(zip(dict.keys(self.held), dict.values(self.held), strict=True))
        return {id(v): v for v in self.held} if isinstance(self.held, set) else dict(enumerate(self.held))

    def name(self, key: Any, value: Any) -> str:
        if isinstance(self.held, set):
            return f"{self.path}{{{_shown(value)}}}"
        if self.dotted:
            return f"{self.path}.{key}"
        return f"{self.path}[{_shown(key)}]"


class _Spot(NamedTuple):
    """A single value that is guarded: `read(*given)` tells it."""

    path: str
    read: Callable[..., Any]
    given: Any  # the name in a namespace, or the cell or object that has it


class Guards:
    """What `function` reads when it is called, and what `extra_roots` hold, as it is now.

    Raises: CompileError if that is more than `VALUES` values
    """

    def __init__(self, function: Any, extra_roots: Iterable[Any] = ()) -> None:
        walk = _Walk()
        walk.root(function)
        for i, root in enumerate(extra_roots):
            walk.add(f"extra_roots[{i}]", root)
        walk.run()
        self._containers, self._named, self._read, self._arrays = walk.containers, walk.named, walk.read, walk.arrays
        self._whole = [c.values() for c in self._containers]
        self._dicts = [dict.keys(c.held) for c in self._containers if isinstance(c.held, dict)]
        self._gets, self._names = [s.read for s in self._named], [s.given for s in self._named]
        self._readers, self._owners = [s.read for s in self._read], [s.given for s in self._read]
        self._ndarrays = [array for _, array in self._arrays]
        self._before = [c.now() for c in self._containers]
        self._frozen = list(self._values())
        self._keys = list(chain.from_iterable(self._dicts))
        self._sizes = [*map(len, self._whole)]
        self._bytes = [*map(np.ndarray.tobytes, self._ndarrays)]

    def _values(self) -> Iterator[Any]:
        """All values as they are now, in a fixed order. A cell or slot that has become empty ends it with an error."""
        return chain(
            chain.from_iterable(self._whole),
            map(call, self._gets, self._names, repeat(_ABSENT)),
            map(call, self._readers, self._owners),
        )

    def hold(self) -> bool:
        """Whether nothing has changed."""
        if [*map(len, self._whole)] != self._sizes:
            return False
        try:
            same = all(map(is_, self._frozen, self._values())) or self._equal()
        except (AttributeError, ValueError):  # an empty slot, an empty cell
            return False
        if not same or [*chain.from_iterable(self._dicts)] != self._keys:
            return False
        return not self._ndarrays or [*map(np.ndarray.tobytes, self._ndarrays)] == self._bytes

    def _equal(self) -> bool:
        """Whether the values that are other objects now are the same numbers and texts. Those are then what is expected."""
        now = list(self._values())
        same = all(_alike(old, new) for old, new in zip(self._frozen, now, strict=True))
        if same:
            self._frozen = now
        return same

    def changes(self) -> dict[str, str]:
        """What has changed: `{"model.training": "True -> False"}`. Empty if the guards hold."""
        found: dict[str, str] = {}
        for container, before in zip(self._containers, self._before, strict=True):
            now = container.now()
            for key in {**before, **now}:
                old, new = before.get(key, _ABSENT), now.get(key, _ABSENT)
                if not _alike(old, new):
                    found[container.name(key, new if old is _ABSENT else old)] = _change(old, new)
            if before.keys() == now.keys() and list(before) != list(now):
                found[container.path] = f"order {_listed(before)} -> {_listed(now)}"
        spots = self._named + self._read
        singles = self._frozen[len(self._frozen) - len(spots) :]
        for spot, old in zip(spots, singles, strict=True):
            new = _current(spot)
            if not _alike(old, new):
                found[spot.path] = _change(old, new)
        for (path, array), elements in zip(self._arrays, self._bytes, strict=True):
            if np.ndarray.tobytes(array) != elements:
                found[path] = f"an array of shape {array.shape} -> other elements"
        return found


class _Walk:
    """Finds what is to be guarded, each object once. What an object's code names is known only when all code has been found."""

    def __init__(self) -> None:
        self.containers: list[_Container] = []
        self.named: list[_Spot] = []
        self.read: list[_Spot] = []
        self.arrays: list[tuple[str, np.ndarray[Any, Any]]] = []
        self._waiting: deque[tuple[str, Any, bool]] = deque()
        self._seen: dict[int, Any] = {}  # keeps what it has seen, so that no id is used twice
        self._names = set(_CALLED)  # attributes that the code reads
        self._partial: list[tuple[str, Mapping[str, Any], AbstractSet[str]]] = []  # namespaces, and names there
        self._classes: dict[int, Mapping[str, Any]] = {}  # the user's, by id
        self._slotted: list[tuple[str, Any, dict[str, MemberDescriptorType]]] = []
        self._taken: set[tuple[int, str]] = set()
        self._count, self._largest = 0, (0, "")

    def add(self, path: str, value: Any, dotted: bool = False) -> None:
        self._waiting.append((path, value, dotted))

    def root(self, function: Any) -> None:
        """The function itself, or the object that is called."""
        if type(function) is MethodType:
            self.add("self", function.__self__)
            self.root(function.__func__)
        elif functools.partial in type(function).__mro__:
            self.root(function.func)
            for i, value in enumerate(function.args):
                self.add(f"args[{i}]", value)
            self.add("keywords", function.keywords)
        elif type(function) is FunctionType:
            self._function(function, trusted=True)
        else:
            self.add("self", function)

    def run(self) -> None:
        """Walk until nothing new is found."""
        while self._waiting or self._name():
            path, value, dotted = self._waiting.popleft()
            if type(value) not in _PLAIN and value is not _ABSENT and id(value) not in self._seen:
                self._seen[id(value)] = value
                self._visit(path, value, type(value).__mro__, dotted)

    def _name(self) -> bool:
        """Take what the names found so far add."""
        for path, namespace, counted in self._partial:
            for name in self._names & counted:
                self._take(f"{path}.{name}", namespace, name)
        for path, owner, slots in self._slotted:
            for name in self._names & slots.keys():
                self._slot(f"{path}.{name}", owner, name, slots[name])
        return bool(self._waiting)

    def _visit(self, path: str, value: Any, kinds: tuple[type, ...], dotted: bool) -> None:
        kind = type(value)
        if tuple in kinds:
            for i, v in enumerate(tuple.__iter__(value)):
                self.add(f"{path}.{i}" if dotted else f"{path}[{i}]", v, dotted)
        elif kind in (list, dict, set, deque):
            self._whole(path, value, dotted, dotted)
        elif np.ndarray in kinds:
            if value.nbytes <= ARRAY_BYTES:
                self.arrays.append((path, value))
        elif kind is FunctionType:
            self._function(value)
        elif kind is MethodType:
            self.add(path, value.__func__)
            self.add(f"{path}.__self__", value.__self__)
        elif kind in _INNER:
            self.add(path, getattr(value, _INNER[kind]))
        elif functools.partial in kinds:
            self.add(path, value.func)
            self.add(f"{path}.args", value.args)
            self.add(f"{path}.keywords", value.keywords)
        elif kind is ModuleType:
            if not _in_library(value.__dict__.get("__file__"), value.__dict__["__name__"]):
                self._partial.append((path, vars(value), vars(value).keys()))
        elif type in kinds:
            for base in self._class(value):
                if "__init__" in base:
                    self._take(f"{path}.__init__", base, "__init__")
        elif Tensor not in kinds:
            self._object(path, value, kinds)

    def _object(self, path: str, value: Any, kinds: tuple[type, ...]) -> None:
        classes = self._class(type(value))
        if dict in kinds or _iterates(kinds):
            self._whole(path, value)
        slots = {name: s for kind in kinds for name, s in vars(kind).items() if type(s) is MemberDescriptorType}
        if type(value) is Group:
            for name in slots.keys() - {"_rounded"}:
                self._slot(f"{path}.{name}", value, name, slots[name])
        elif slots:
            self._slotted.append((path, value, slots))
        attributes = _attributes(value, kinds)
        if attributes is None:
            return
        if Module in kinds or Optimizer in kinds or type(value).__module__ == "needle_core.schedules":
            self._whole(path, attributes, dotted=True, inside=Module in kinds)
        else:  # an attribute that is the class's may become the object's own
            self._partial.append((path, attributes, attributes.keys() | set().union(*classes)))
            self.add(path, attributes.get("__wrapped__"))  # what a decorator has made calls what it was given

    def _class(self, kind: type) -> list[Mapping[str, Any]]:
        """The namespaces of a class and its bases, as far as they are the user's. What their code reads is walked, too."""
        for base in kind.__mro__:
            module = sys.modules.get(base.__module__)
            if id(base) not in self._classes and not _in_library(getattr(module, "__file__", None), base.__module__):
                self._classes[id(base)] = vars(base)
                self._partial.append((base.__qualname__, self._classes[id(base)], vars(base).keys()))
        return [self._classes[id(base)] for base in kind.__mro__ if id(base) in self._classes]

    def _function(self, function: FunctionType, trusted: bool = False) -> None:
        """What a function of the user's reads: its closure, its globals, its defaults."""
        code = function.__code__
        if not trusted and _in_library(code.co_filename, function.__module__):
            return
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            if id(cell) not in self._seen:
                self._seen[id(cell)] = cell
                self._spot(name, _contents, cell)
        namespace = function.__globals__
        for instruction in chain.from_iterable(map(dis.get_instructions, _codes(code))):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") and instruction.argval in namespace:
                self._take(instruction.argval, namespace, instruction.argval)
            elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
                self._names.add(instruction.argval)
        defaults, last = function.__defaults__ or (), code.co_argcount
        named = zip(code.co_varnames[last - len(defaults) : last], defaults, strict=True)
        for name, value in chain(named, (function.__kwdefaults__ or {}).items()):
            self.add(name, value)

    def _whole(self, path: str, held: Any, dotted: bool = False, inside: bool = False) -> None:
        """Guard all of a list, dict or set; `dotted` are its own names, and `inside` those of lists and dicts in it."""
        container = _Container(path, held, dotted)
        self.containers.append(container)
        self._room(path, len(container.values()))
        for key, value in container.now().items():
            self.add(container.name(key, value), value, inside)

    def _take(self, path: str, namespace: Mapping[str, Any], name: str) -> None:
        """Guard one name of a namespace."""
        if (id(namespace), name) not in self._taken:
            self._taken.add((id(namespace), name))
            self._room(path, 1)
            self.named.append(_Spot(path, namespace.get, name))
            self.add(path, namespace.get(name, _ABSENT))

    def _slot(self, path: str, owner: Any, name: str, slot: MemberDescriptorType) -> None:
        """Guard one slot of an object, if it is filled."""
        if (id(owner), name) not in self._taken:
            self._taken.add((id(owner), name))
            self._spot(path, attrgetter(name) if type(owner) is Group else slot.__get__, owner)

    def _spot(self, path: str, read: Callable[[Any], Any], owner: Any) -> None:
        spot = _Spot(path, read, owner)
        value = _current(spot)
        if value is not _ABSENT:
            self._room(path, 1)
            self.read.append(spot)
            self.add(path, value)

    def _room(self, path: str, count: int) -> None:
        """Count values, and refuse too many."""
        self._count += count
        self._largest = max(self._largest, (count, path))
        if self._count > VALUES:
            size, where = self._largest
            raise CompileError(
                f"the function depends on more than {VALUES:,} Python values",
                details={"most": f"{size:,} of them in {where}"},
                hint="pass as an argument what it computes with",
            )


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code and that of the functions in it."""
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _codes(value)


def _in_library(file: str | None, module: str | None) -> bool:
    """Whether code is Needle's, Python's or an installed library's: no part of what the user changes."""
    if file is None or file.startswith("<frozen"):
        return (module or "").partition(".")[0] in sys.stdlib_module_names
    return file.startswith(_LIBRARIES)


def _iterates(kinds: tuple[type, ...]) -> bool:
    """Whether objects of these classes are lists or sets that are iterated as such."""
    base = list if list in kinds else set
    return base in kinds and kinds[0].__iter__ is base.__iter__ and kinds[0].__len__ is base.__len__  # type: ignore[attr-defined]


def _attributes(value: Any, kinds: tuple[type, ...]) -> dict[str, Any] | None:
    """The `__dict__` of an object, without asking the object for it."""
    for kind in kinds:
        found = vars(kind).get("__dict__")
        if type(found) in (GetSetDescriptorType, MemberDescriptorType):
            attributes: dict[str, Any] = found.__get__(value)  # type: ignore[union-attr]
            return attributes
    return None


def _current(spot: _Spot) -> Any:
    if isinstance(spot.given, str):
        return spot.read(spot.given, _ABSENT)
    try:
        return spot.read(spot.given)
    except (AttributeError, ValueError):  # an empty slot, an empty cell
        return _ABSENT


def _alike(old: Any, new: Any) -> bool:
    """Whether a function cannot tell two values apart: one object, or numbers and texts that are written alike."""
    if old is new:
        return True
    if type(old) is not type(new):
        return False
    if type(old) is tuple:
        return len(old) == len(new) and all(map(_alike, old, new))
    return (type(old) in _PLAIN or np.generic in type(old).__mro__) and repr(old) == repr(new)


def _change(old: Any, new: Any) -> str:
    before, after = _shown(old), _shown(new)
    return f"{before} -> {after}" if before != after else f"{before} -> another {after}"


def _listed(keys: Iterable[Any]) -> str:
    return ", ".join(map(_shown, keys))


def _shown(value: Any) -> str:
    """A value as text, without asking it unless its type is known."""
    kind = type(value)
    if value is _ABSENT:
        return "nothing"
    if kind in _PLAIN:
        return brief(value)
    if kind is tuple:
        return f"({_listed(value)})"
    if Tensor in kind.__mro__:
        return f"{kind.__name__} {value.spec}"
    return value.__qualname__ if kind is FunctionType or kind is type else kind.__name__
