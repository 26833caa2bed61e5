"""`needle new`: what it writes is complete, clean and conforms as it is; what it refuses leaves nothing behind."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import needle_core
from needle_core.cli import needle
from needle_core.errors import ArgumentError
from tests.plugin_fixtures import Site, site
from tests.projects import install

__all__ = ["site"]

pytestmark = pytest.mark.once

ROOT = Path(needle_core.__file__).parent.parent
EXAMPLE = ROOT / "examples" / "backend_in_150_lines"
OP_LIMIT = 15  # lines of code of an op with gradient and samples
KINDS = [("op", "squared_relu"), ("backend", "tiny"), ("optimizer", "MeanDescent")]


def new(kind: str, name: str, folder: Path, *args: str) -> Result:
    return CliRunner().invoke(needle, ["new", kind, name, "--directory", str(folder), *args])


def written(folder: Path) -> dict[str, str]:
    """The files below a folder, path to text, but for what tools leave there."""
    caches = {"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
    files = (path for path in folder.rglob("*") if path.is_file() and not caches & {*path.parts})
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in files}


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a generated package of each kind."""
    folder = tmp_path_factory.mktemp("projects")
    results = {kind: new(kind, name, folder, "--json") for kind, name in KINDS}
    assert [result.exception for result in results.values()] == [None] * 3
    return {kind: Path(json.loads(result.output)["folder"]) for kind, result in results.items()}


# -- what is written --------------------------------------------------------------------------------------------------------


def test_backend_is_the_example(projects: dict[str, Path]) -> None:
    assert written(projects["backend"]) == written(EXAMPLE)


def test_op_has_at_most_15_lines_of_code(projects: dict[str, Path]) -> None:
    text = (projects["op"] / "needle_squared_relu" / "__init__.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node):
            del node.body[0]
    lines = ast.unparse(tree).splitlines()
    code = [line for line in lines if line and not line.lstrip().startswith(("import ", "from "))]
    assert 0 < len(code) <= OP_LIMIT


@pytest.mark.parametrize("tool", ["check", "format --check"])
def test_code_passes_ruff(projects: dict[str, Path], tool: str) -> None:
    for folder in projects.values():
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *tool.split(), "--no-cache", "."],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def test_code_passes_mypy(projects: dict[str, Path], request: pytest.FixtureRequest) -> None:
    cache = request.config.cache.mkdir("mypy")  # type: ignore[union-attr]
    packages = [str(package) for folder in projects.values() for package in folder.glob("needle_*")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), *packages],
        cwd=projects["op"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "Success: no issues found in 4 source files\n"


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_package_conforms_as_it_is(kind: str, name: str, projects: dict[str, Path], site: Site) -> None:
    install(site, projects[kind])
    code = f"import sys; sys.argv = ['needle', 'conform', {name!r}, '--quick']; from needle_core.cli import main; main()"
    done = site.python(code, NEEDLE_CACHE=str(site.folder / "cache"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_tests_of_the_package_pass(kind: str, name: str, projects: dict[str, Path], site: Site) -> None:
    """Of the backend's, which are the whole kit, only those of one op."""
    install(site, projects[kind])
    chosen = ["-k", "matmul"] if kind == "backend" else []
    args = [str(projects[kind]), "-q", "-p", "no:cacheprovider", *chosen]
    done = site.python(f"import sys, pytest; sys.exit(pytest.main({args!r}))")
    assert done.returncode == 0, done.stdout + done.stderr


def test_longest_name_keeps_the_code_clean(tmp_path: Path) -> None:
    name = "a" * 25
    for kind, own in (("op", name), ("backend", name), ("optimizer", name.capitalize())):
        (tmp_path / kind).mkdir()
        assert new(kind, own, tmp_path / kind).exception is None
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", "--no-cache", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


# -- what is printed --------------------------------------------------------------------------------------------------------


def test_files_and_next_commands_are_printed(tmp_path: Path) -> None:
    lines = new("optimizer", "MeanDescent", tmp_path).output.splitlines()
    folder = tmp_path / "needle-mean-descent"
    assert lines[0] == f"wrote {folder}"
    assert {line.strip() for line in lines[1 : lines.index("next:")]} == set(written(folder))
    assert [line.strip() for line in lines[lines.index("next:") + 1 :]] == [
        f"cd {folder}",
        'pip install -e ".[test]"',
        "needle conform MeanDescent",
        "python -m pytest",
    ]


def test_json_tells_the_same(tmp_path: Path) -> None:
    told = json.loads(new("op", "squared_relu", tmp_path, "--json").output)
    assert (told["kind"], told["name"], told["distribution"]) == ("op", "squared_relu", "needle-squared-relu")
    assert set(told["files"]) == set(written(Path(told["folder"])))
    assert told["next"][2] == "needle conform squared_relu"


# -- what is refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("op", "two words", "no op can be called 'two words'"),
        ("op", "Upper", "no op can be called 'Upper'"),
        ("op", "2nd", "no op can be called '2nd'"),
        ("op", "trailing_", "no op can be called 'trailing_'"),
        ("op", "../escape", "no op can be called '../escape'"),
        ("op", "lambda", "no op can be called 'lambda'"),
        ("op", "a" * 26, f"no op can be called '{'a' * 26}'"),
        ("backend", "class", "no backend can be called 'class'"),
        ("optimizer", "lower", "no optimizer can be called 'lower'"),
        ("optimizer", "None", "no optimizer can be called 'None'"),
        ("op", "matmul", "the core has something called 'matmul': ndl.matmul"),
        ("op", "zeros", "the core has something called 'zeros': ndl.zeros"),
        ("op", "fused_add_scalars", "'fused_add_scalars' is taken by an installed plugin, needle-extra-ops"),
        ("backend", "numpy", "'numpy' is taken by an installed plugin, needle-numpy-backend"),
        ("optimizer", "Adam", "'Adam' is taken by an installed plugin, needle-optimizers"),
        ("op", "optimizers", "'optimizers' is taken by an installed plugin, needle-optimizers"),
        ("op", "np", "the code of the op uses the name 'np' for something else"),
        ("optimizer", "Params", "the code of the optimizer uses the name 'Params' for something else"),
    ],
)
def test_name_that_is_invalid_or_taken_is_refused(kind: str, name: str, reason: str, tmp_path: Path) -> None:
    error = new(kind, name, tmp_path).exception
    assert type(error) is ArgumentError
    assert error.summary.startswith(reason)
    assert list(tmp_path.iterdir()) == []


def test_name_of_a_package_that_is_installed_is_refused(tmp_path: Path, site: Site) -> None:
    (site.folder / "needle_mine.py").touch()
    error = new("op", "mine", tmp_path).exception
    assert isinstance(error, ArgumentError)
    assert error.summary == "a package called 'needle_mine' is installed already"


def test_folder_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "needle-squared-relu"
    folder.mkdir()
    (folder / "mine.txt").write_text("keep", encoding="utf-8")
    error = new("op", "squared_relu", tmp_path).exception
    assert isinstance(error, ArgumentError)
    assert error.summary == f"{folder} exists already"
    assert written(tmp_path) == {"needle-squared-relu/mine.txt": "keep"}


def test_nothing_is_left_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def full(path: Path, *args: str, **kwargs: str) -> int:
        if path.name == "test_conformance.py":
            raise OSError("no space left on device")
        return write(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    error = new("op", "squared_relu", tmp_path).exception
    assert str(error) == f"{tmp_path / 'needle-squared-relu'} cannot be written: no space left on device"
    assert list(tmp_path.iterdir()) == []
