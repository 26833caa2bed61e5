"""What a captured function depends on in Python: the values that it can reach.

Found are closure variables, globals and defaults of the function and of the user's functions that it names; lists, dicts and
sets; everything in Modules and Optimizers; of other objects the attributes that the code names. Not found are attributes whose
name is only computed, as in `getattr(self, f"w{i}")`, and what is inside of installed libraries. No method of an object that is
found is called: equality of tensors is elementwise, and that of strangers may do anything.
"""

from __future__ import annotations

import dis
import functools
import sys
import sysconfig
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Set as AbstractSet
from itertools import chain
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

PLAIN: Final = (type(None), bool, int, float, complex, str, bytes)
ABSENT: Final = object()

_CALLED: Final = {"forward", "__call__", "__getitem__", "__iter__", "__len__", "__contains__", "__enter__", "__exit__"}
_INNER: Final = {staticmethod: "__func__", classmethod: "__func__", property: "fget", functools.cached_property: "func"}
_LIBRARIES: Final = (
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    str(Path(__file__).parents[1]),
)


class Container(NamedTuple):
    """A list, dict or set that is guarded as a whole, where it was found, and whether names there are dotted as in Modules."""

    path: str
    held: Any
    dotted: bool

    def parts(self) -> list[Any]:
        """What is to be iterated over for what is in it: the values, and the keys of a dict that has some."""
        if not isinstance(self.held, dict):
            return [self.held]
        keys = dict.keys(self.held)
        return [dict.values(self.held), keys] if len(keys) else [dict.values(self.held)]

    def now(self) -> dict[Any, Any]:
        """What is in it, by key, index or identity."""
        if isinstance(self.held, dict):
            return dict(zip(dict.keys(self.held), dict.values(self.held), strict=True))
        return {id(v): v for v in self.held} if isinstance(self.held, set) else dict(enumerate(self.held))

    def name(self, key: Any, value: Any) -> str:
        if isinstance(self.held, set):
            return f"{self.path}{{{shown(value)}}}"
        if self.dotted:
            return f"{self.path}.{key}"
        return f"{self.path}[{shown(key)}]"


class Spot(NamedTuple):
    """A single value that is guarded: a name in a namespace, or an attribute, as is what a cell contains."""

    path: str
    owner: Any
    name: str
    is_named: bool = False

    def now(self) -> Any:
        if self.is_named:
            return self.owner.get(self.name, ABSENT)
        try:
            return getattr(self.owner, self.name)
        except (AttributeError, ValueError):  # an empty slot, an empty cell
            return ABSENT


class _Slot(NamedTuple):
    """A slot of an object of the user's, which is read without asking the object."""

    descriptor: MemberDescriptorType
    holder: Any

    @property
    def value(self) -> Any:
        return self.descriptor.__get__(self.holder)


class Walk:
    """Finds what is to be guarded, each object once. What an object's code names is known only when all code has been found."""

    def __init__(self) -> None:
        self.containers: list[Container] = []
        self.spots: list[Spot] = []
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
            if type(value) not in PLAIN and value is not ABSENT and id(value) not in self._seen:
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
            self.add(function.__name__, vars(function).get("__wrapped__"))  # what a decorator has made calls what it was given
            return
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            if id(cell) not in self._seen:
                self._seen[id(cell)] = cell
                self._spot(name, cell, "cell_contents")
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
        container = Container(path, held, dotted)
        self.containers.append(container)
        self._room(path, len(container.now()))
        for key, value in container.now().items():
            self.add(container.name(key, value), value, inside)

    def _take(self, path: str, namespace: Mapping[str, Any], name: str) -> None:
        """Guard one name of a namespace."""
        if (id(namespace), name) not in self._taken:
            self._taken.add((id(namespace), name))
            self._room(path, 1)
            self.spots.append(Spot(path, namespace, name, is_named=True))
            self.add(path, namespace.get(name, ABSENT))

    def _slot(self, path: str, owner: Any, name: str, slot: MemberDescriptorType) -> None:
        """Guard one slot of an object, if it is filled."""
        if (id(owner), name) not in self._taken:
            self._taken.add((id(owner), name))
            if type(owner) is Group:
                self._spot(path, owner, name)
            else:
                self._spot(path, _Slot(slot, owner), "value")

    def _spot(self, path: str, owner: Any, name: str) -> None:
        spot = Spot(path, owner, name)
        value = spot.now()
        if value is not ABSENT:
            self._room(path, 1)
            self.spots.append(spot)
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


def listed(keys: Iterable[Any]) -> str:
    return ", ".join(map(shown, keys))


def shown(value: Any) -> str:
    """A value as text, without asking it unless its type is known."""
    kind = type(value)
    if value is ABSENT:
        return "nothing"
    if kind in PLAIN:
        return brief(value)
    if kind is tuple:
        return f"({listed(value)})"
    if Tensor in kind.__mro__:
        return f"{kind.__name__} {value.spec}"
    return value.__qualname__ if kind is FunctionType or kind is type else kind.__name__
