"""The pages of docs/ that follow from the code are what docs/generate.py makes of it."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from needle_core.op import OPS
from needle_core.plugins.registrar import Registrar
from needle_core.testing import CASES, Case
from needle_core.testing.optimizers import OptimizerCase
from needle_core.testing.samples import Input

pytestmark = pytest.mark.once

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(generate: ModuleType) -> dict[str, str]:
    return generate.pages()


@pytest.mark.parametrize("name", ["ops.md", "kernels.md", "declarations.md"])
def test_the_page_is_what_the_code_says(pages: dict[str, str], name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == pages[name], "`make docs` writes it anew"


def test_the_pages_are_made_alike_each_time(generate: ModuleType, pages: dict[str, str]) -> None:
    assert generate.pages() == pages


def test_every_op_of_the_core_has_a_line(pages: dict[str, str]) -> None:
    listed = re.findall(r"^\| \[?`(\w+)\(.*\| (?:primitive|composite)(?:, product)? \|", pages["ops.md"], re.MULTILINE)
    assert sorted(listed) == sorted(CASES)


def test_every_primitive_has_a_line(pages: dict[str, str]) -> None:
    listed = re.findall(r"^\| \[?`(\w+)\(", pages["kernels.md"], re.MULTILINE)
    assert sorted(listed) == sorted(name for name in CASES if OPS[name].is_primitive)


@pytest.mark.parametrize("name", ["ops.md", "kernels.md"])
def test_links_lead_to_headings(pages: dict[str, str], name: str) -> None:
    headings = {page: set(re.findall(r"^#+ (\w+)$", text, re.MULTILINE)) for page, text in pages.items()}
    for page, anchor in re.findall(r"\]\(([\w.]*)#(\w+)\)", pages[name]):
        assert anchor in headings[page or name]


def test_all_that_can_be_declared_has_a_line(pages: dict[str, str]) -> None:
    listed = set(re.findall(r"^\| `(\w+)", pages["declarations.md"], re.MULTILINE))
    assert listed >= {field.name for cls in (Case, Input, OptimizerCase) for field in dataclasses.fields(cls)}
    assert listed >= {name for name, method in vars(Registrar).items() if callable(method) and name[0] != "_"} - {"during"}
    assert listed >= {"real", "index", "mask", "sample", "at", "unary", "binary", "reduced", "refuses", "kink"}
    assert listed >= {"floats", "numbers", "sums", "always", "broadcasted_floating", "reduced", "contracted", "to_floating"}


def test_signatures_and_defaults_of_declarations_are_those_of_the_code(pages: dict[str, str]) -> None:
    page = pages["declarations.md"]
    assert line(page, "roundoff")[:2] == ["`roundoff(op: str, dtype: str, u: float, reason: str)`", "`needle_conformance`"]
    assert "| `rounds` | `float` | `4.0` |" in page
    assert "| `roundoff` | `Mapping[str, float]` | `dict()` |" in page
    assert line(page, "broadcasted_floating")[1] == "`to_floating`"


def line(page: str, op: str) -> list[str]:
    (found,) = re.findall(rf"^\| (\[?`{op}\(.*) \|$", page, re.MULTILINE)
    return [cell.strip() for cell in found.split(" | ")]


def test_gradients_are_told_by_where_they_come_from(pages: dict[str, str]) -> None:
    gradients = {op: line(pages["ops.md"], op)[2] for op in ("matmul", "where", "layer_norm", "clip", "floor", "argmax")}
    assert gradients == {
        "matmul": "rules", "where": "rules; none for condition", "layer_norm": "joint rule", "clip": "through its body",
        "floor": "none", "argmax": "none",
    }  # fmt: skip


def test_kernels_get_canonical_attributes_and_promoted_operands(pages: dict[str, str]) -> None:
    kernel, dtypes, result, attributes, _ = line(pages["kernels.md"], "sum")
    assert kernel == "[`sum(x, *, axes, keepdims)`](ops.md#sum)"
    assert (dtypes, result) == ("floating or int64", "as x")
    assert attributes == "`axes: tuple[int, ...]`, as in `(0, 1, 2)`; `keepdims: bool`"
    assert line(pages["kernels.md"], "less")[1:3] == ["any", "bool"]
    assert line(pages["kernels.md"], "take")[1:3] == ["x any, indices integers", "as x"]
