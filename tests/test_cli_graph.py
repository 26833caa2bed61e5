"""`needle graph` runs a program and shows what it compiles."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from needle_core.cli.graph import graph

PROGRAM = """
import needle_core as ndl

@ndl.compile
def doubled(x):
    return x * 2

@ndl.compile
def squared(x):
    return x * x

print("the program runs")
doubled(ndl.Tensor([1.0]))
squared(ndl.Tensor([1.0, 2.0]))
squared(ndl.Tensor([1.0]))
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    return str(path)


def test_each_compiled_function_is_shown_with_the_lines_that_made_its_nodes(program: str) -> None:
    shown = CliRunner().invoke(graph, [program])
    assert shown.exit_code == 0
    assert shown.stdout.index("# doubled") < shown.stdout.index("# squared")
    assert "= multiply(x0, 2) " in shown.stdout
    assert "# program.py:6" in shown.stdout


def test_the_output_of_the_program_does_not_mix_with_the_graphs(program: str) -> None:
    shown = CliRunner().invoke(graph, [program])
    assert "the program runs" in shown.stderr
    assert "the program runs" not in shown.stdout


def test_only_chooses_by_name(program: str) -> None:
    shown = CliRunner().invoke(graph, [program, "--only", "squ", "--report"])
    assert shown.stdout.startswith("squared: 2 programs\n0: captured because it is the first call\n")
    assert "argument 0: float32[2] on" in shown.stdout.split("1: captured because")[1].splitlines()[0]


def test_what_is_written_to_a_file_is_what_is_shown(program: str, tmp_path: Path) -> None:
    path = tmp_path / "graph.txt"
    CliRunner().invoke(graph, [program, "--output", str(path)])
    assert path.read_text(encoding="utf-8") == CliRunner().invoke(graph, [program]).stdout


def test_program_that_compiles_nothing_is_told(tmp_path: Path) -> None:
    path = tmp_path / "plain.py"
    path.write_text("x = 1\n", encoding="utf-8")
    shown = CliRunner().invoke(graph, [str(path)])
    assert shown.exit_code == 1
    assert "calls no compiled function" in shown.stderr


def test_program_that_fails_is_told_with_its_traceback(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("raise ValueError('boom')\n", encoding="utf-8")
    shown = CliRunner().invoke(graph, [str(path)])
    assert shown.exit_code == 1
    assert "ValueError: boom" in shown.stderr


def test_a_page_shows_all_graphs(program: str, tmp_path: Path) -> None:
    path = tmp_path / "graph.html"
    assert CliRunner().invoke(graph, [program, "--format", "html", "--output", str(path)]).exit_code == 0
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert "<h1>doubled</h1>" in text
    assert "<h1>squared</h1>" in text


def test_graphviz_source_has_a_graph_for_each_function(program: str) -> None:
    shown = CliRunner().invoke(graph, [program, "--format", "dot"])
    assert shown.stdout.count("digraph ") == 2


def test_a_report_is_text(program: str) -> None:
    shown = CliRunner().invoke(graph, [program, "--format", "html", "--report"])
    assert shown.exit_code == 2
    assert "a report is text" in shown.stderr
