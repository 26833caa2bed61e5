"""The guides in docs/ hold: their files are written, their commands and sessions run, in order, and the outputs compared."""

from __future__ import annotations

import doctest
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from needle_core.backend import Backend
from needle_core.diagnosis import environment
from needle_core.fallback import POLICIES

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

# What `pip install -e .` leaves behind, without a network: metadata made of pyproject.toml. The folder itself is on PYTHONPATH.
PIP = f"""#!{sys.executable}
import os, pathlib, tomllib

project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
info = pathlib.Path(os.environ["SITE"], f"{{project['name'].replace('-', '_')}}-{{project['version']}}.dist-info")
info.mkdir(parents=True, exist_ok=True)
(info / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: {{project['name']}}\\nVersion: {{project['version']}}\\n")
groups = project["entry-points"].items()
lines = [line for group, entries in groups for line in (f"[{{group}}]", *(f"{{n}} = {{v}}" for n, v in entries.items()))]
(info / "entry_points.txt").write_text("\\n".join(lines))
"""

SESSION = """
import doctest, sys

test = doctest.DocTestParser().get_doctest(sys.stdin.read(), {"__name__": "__main__"}, "session", "guide", 0)
sys.exit(doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed)
"""


class Block(NamedTuple):
    """A fenced block of a guide; `target` is what stands behind the language: a file to write, or `>> FILE` to append to."""

    line: int
    language: str
    target: str
    text: str


def blocks(guide: str) -> Iterator[Block]:
    text = (DOCS / guide).read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w+) ?(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE):
        yield Block(text.count("\n", 0, match.start()) + 1, *match.groups())


class Reader:
    """Does what a guide says, in a folder and with an installation of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "package"
        self.folder.mkdir()
        tools = folder / "bin"
        tools.mkdir()
        (tools / "pip").write_text(PIP, encoding="utf-8")
        (tools / "pip").chmod(0o755)
        site = folder / "site"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("NEEDLE_")},
            "SITE": str(site),
            "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(site), str(self.folder)]),
            "NEEDLE_CACHE": str(folder / "cache"),
            "COLUMNS": "100",
        }

    def follow(self, block: Block) -> None:
        """Write the file, or run the session or the commands and compare their output."""
        if block.target:
            name = block.target.removeprefix(">> ")
            (self.folder / name).parent.mkdir(exist_ok=True)
            with open(self.folder / name, "a" if name != block.target else "w", encoding="utf-8") as file:
                file.write(block.text if name == block.target else f"\n\n{block.text}")
            if name == "pyproject.toml":  # what else is installed here is not the reader's
                distribution = tomllib.loads(block.text)["project"]["name"]
                self.environment["NEEDLE_PLUGINS"] = f"numpy,loopback,{distribution}"
        elif block.language == "pycon":
            result = self._run([sys.executable, "-c", SESSION], block.text)
            assert result.returncode == 0, result.stdout + result.stderr
        else:
            assert block.language == "console", f"a block of {block.language} that nobody runs"
            for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE):
                result = self._run(["bash", "-c", command])
                shown = re.sub(r" +$", "", result.stdout + result.stderr, flags=re.MULTILINE)
                if command.startswith(("needle conform", "pytest")):  # the number of checks, and their time, may change
                    expected, shown = (re.sub(r" *\d[\d.e-]*", " #", text) for text in (expected, shown))
                assert doctest.OutputChecker().check_output(expected, shown, doctest.ELLIPSIS), f"$ {command}\n{shown}"

    def _run(self, command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, input=text, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )


@pytest.mark.parametrize(
    "guide",
    [
        "write-an-op.md", "write-an-optimizer.md", "write-a-backend.md", "compile.md", "mixed-precision.md", "compare.md",
        "interchange.md", "environment.md",
    ],
)  # fmt: skip
def test_the_guide_holds(guide: str, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    for block in blocks(guide):
        try:
            reader.follow(block)
        except AssertionError as fault:
            raise AssertionError(f"docs/{guide}, line {block.line}: {fault}") from None


def test_an_op_with_gradient_and_samples_takes_fifteen_lines() -> None:
    first = next(b for b in blocks("write-an-op.md") if b.target == "needle_bell/__init__.py")
    assert len([line for line in first.text.splitlines() if line.strip()]) <= 15


def test_the_guide_names_every_member_of_a_backend() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (DOCS / "write-a-backend.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = {name: parameters for row in rows for name, parameters in re.findall(r"`(\w+)(?:\((.*?)\))?`", row)}
    members = {**Backend.__annotations__, **{name: m for name, m in vars(Backend).items() if inspect.isfunction(m)}}
    assert named.keys() == members.keys()
    for name, method in members.items():
        if inspect.isfunction(method):
            assert named[name] == ", ".join(list(inspect.signature(method).parameters)[1:]), name


def test_every_environment_variable_is_documented() -> None:
    """Those that the source names, those that the doctor knows and those of the table are the same."""
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", (DOCS / "environment.md").read_text(encoding="utf-8"), re.MULTILINE)
    files = [ROOT / "Makefile", *(p for part in ("needle_core", "plugins") for p in (ROOT / part).rglob("*.py"))]
    source = [p.read_text(encoding="utf-8") for p in files if "tests" not in p.relative_to(ROOT).parts]
    named = {name for text in source for name in re.findall(r"\bNEEDLE_[A-Z_]*[A-Z]\b", text)}
    assert sorted(name for name, _ in rows) == sorted(named) == sorted(environment.VARIABLES)
    assert dict(rows)["NEEDLE_FALLBACK"] == ", ".join(f"`{policy}`" for policy in POLICIES)


@pytest.mark.parametrize("page", sorted(p.name for p in DOCS.glob("*.md")))
def test_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", (DOCS / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", text):
        assert (DOCS / target).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (DOCS / (target or page)).read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, anchor
