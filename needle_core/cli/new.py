"""Write a package with a new op, backend or optimizer.

Complete and conforming as it is written: code, conformance test, README, CI. From there it is changed into what is wanted.
"""

from __future__ import annotations

import ast
import json
import keyword
import re
import shlex
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Final

import click

import needle_core as ndl
from needle_core.errors import ArgumentError, NeedleError
from needle_core.plugins.manifest import Manifest

TEMPLATES: Final = Path(__file__).with_name("templates")

_LONGEST: Final = 25  # of names: lines of generated code must not grow too long
_SHARED: Final = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    ".gitignore": "gitignore",
    ".github/workflows/test.yml": "workflow.yml",
    "tests/test_conformance.py": "test_conformance.py",
}


@dataclass(frozen=True)
class Kind:
    """What differs from kind to kind. `modules` are the files of the package and their templates."""

    group: str
    names: str
    written: str
    distribution: str
    modules: dict[str, str]
    description: str
    tour: str
    checked: str


_SNAKE: Final = r"[a-z][a-z0-9]*(_[a-z0-9]+)*"
_KINDS: Final = {
    "op": Kind(
        "ops",
        _SNAKE,
        "lower_case",
        "needle-{}",
        {"__init__.py": "op.py"},
        "The op $name for Needle, which runs on every backend",
        "`$package/__init__.py` holds what it computes, its gradient, and the samples and the reference that prove both.",
        "values, gradients, dtypes, layouts and errors on every installed backend",
    ),
    "backend": Kind(
        "backends",
        _SNAKE,
        "lower_case",
        "needle-{}-backend",
        {"__init__.py": "backend.py", "kernels.py": "kernels.py"},
        "The backend $name for Needle, complete in 150 lines",
        "`$package/__init__.py` holds memory and calls, `$package/kernels.py` a kernel for each primitive.",
        "every op of the core on it, transfers, memory, random numbers and modules",
    ),
    "optimizer": Kind(
        "optimizers",
        r"[A-Z][A-Za-z0-9]*",
        "CamelCase",
        "needle-{}",
        {"__init__.py": "optimizer.py"},
        "The optimizer $name for Needle",
        "`$package/__init__.py` holds its rule, and the formula in NumPy that it is compared with.",
        "trajectories against the formula, groups, schedules, and resuming",
    ),
}


@click.command()
@click.argument("kind", type=click.Choice(list(_KINDS)))
@click.argument("name")
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    default=".",
    metavar="FOLDER",
    help="Where to put the folder of the package.  [default: here]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def new(kind: str, name: str, directory: Path, as_json: bool) -> None:
    """Write a package with the op, backend or optimizer called NAME, into a folder of its own.

    An op or a backend is named in lower_case, an optimizer, which is a class, in CamelCase. Nothing is overwritten.
    """
    words = words_of(kind, name)
    folder = directory / words["distribution"]
    if folder.exists():
        raise ArgumentError(f"{folder} exists already", hint="--directory FOLDER puts the package elsewhere")
    texts = files(kind, words)
    try:
        _write(folder, texts)
    except OSError as cause:
        raise NeedleError(f"{folder} cannot be written: {cause}") from cause
    commands = [f"cd {shlex.quote(str(folder))}", 'pip install -e ".[test]"', f"needle conform {name}", "python -m pytest"]
    if as_json:
        told = {"kind": kind, **words, "folder": str(folder), "files": list(texts), "next": commands}
        click.echo(json.dumps(told, indent=2))
        return
    click.echo("\n  ".join([f"wrote {folder}", *texts]))
    click.echo("\n  ".join(["next:", *commands]))


def _write(folder: Path, texts: dict[str, str]) -> None:
    """Write files into a new folder, all or none."""
    with TemporaryDirectory(dir=folder.parent, prefix=".needle-new-") as scratch:
        project = Path(scratch, folder.name)
        for path, text in texts.items():
            file = project / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        project.rename(folder)


def words_of(kind: str, name: str) -> dict[str, str]:
    """What the templates are filled with. Raises ArgumentError for a name that is invalid or taken."""
    made = _KINDS[kind]
    if not re.fullmatch(made.names, name) or keyword.iskeyword(name) or len(name) > _LONGEST:
        hint = f"{made.written}, at most {_LONGEST} letters and digits, no keyword of Python"
        raise ArgumentError(f"no {kind} can be called {name!r}", hint=hint)
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    distribution = made.distribution.format(snake.replace("_", "-"))
    package = distribution.replace("-", "_")
    if kind != "backend" and hasattr(ndl, name):
        raise ArgumentError(f"the core has something called {name!r}: ndl.{name}")
    for plugin in Manifest().plugins:
        if plugin.answers_to(name) or plugin.answers_to(distribution):
            raise ArgumentError(f"{name!r} is taken by an installed plugin, {plugin}", details={"it is": plugin.value})
    if find_spec(package) is not None:
        raise ArgumentError(f"a package called {package!r} is installed already")
    words = {
        "name": name,
        "class_name": f"{''.join(map(str.capitalize, snake.split('_')))}Backend",
        "distribution": distribution,
        "package": package,
        "group": made.group,
        "version": ndl.__version__,
        "checked": made.checked,
    }
    return {
        **words,
        "description": Template(made.description).substitute(words),
        "tour": Template(made.tour).substitute(words),
    }


def files(kind: str, words: dict[str, str]) -> dict[str, str]:
    """The files of a package, path to text. Raises ArgumentError for a name that its own code needs otherwise."""
    package = words["package"]
    templates = {f"{package}/{path}": source for path, source in _KINDS[kind].modules.items()}
    texts = {path: _filled(source, words) for path, source in {**_SHARED, **templates}.items()}
    texts[f"{package}/py.typed"] = ""
    for path in templates:
        if words["name"] in _bound(texts[path]):
            raise ArgumentError(f"the code of the {kind} uses the name {words['name']!r} for something else")
    return texts


def _filled(template: str, words: dict[str, str]) -> str:
    return Template((TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")).substitute(words)


def _bound(code: str) -> set[str]:
    """The names that imports and assignments in `code` bind."""
    nodes = list(ast.walk(ast.parse(code)))
    imported = {
        alias.asname or alias.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
    }
    return imported | {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
