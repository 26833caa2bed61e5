"""Programs with the computation in their loops compiled: for the tests of the examples.

`outlined` moves statements, as they stand, from the bodies of loops into functions that are made before the outermost loop:

    for x, y in batches:                        @ndl.compile
        opt.reset_grad()                        def computation_0(x, y):
        loss = loss_of(model(x), y)                 opt.reset_grad()
        loss.backward()                             loss = loss_of(model(x), y)
        opt.step()                                  loss.backward()
        losses.append(loss.item())                  opt.step()
                                                    return (loss,)
                                                for x, y in batches:
                                                    (loss,) = computation_0(x, y)
                                                    losses.append(loss.item())

What moves are the longest runs of statements in which Python looks at no number. The names that the loop binds are arguments of
the function, those that the run binds its results, and all others it finds where the program has them. What is called outside
of such runs, the model above all, is called through `ndl.compile` where it stands.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

LOOKS: Final = {"append", "item", "numpy", "print", "tolist"}
"""Words of statements that stay in the loop."""

COMPUTES: Final = {"backward", "model", "ndl", "nn"}
"""Words of which a run has at least one: others compute with Python's numbers."""

CALLED: Final = {"grad", "model", "naive_softmax", "value_and_grad"}
"""What is compiled where it is called, or what it gives is, if it makes functions."""


def outlined(source: str, *, without: Iterable[str] = ()) -> ast.Module:
    """The program, compiled except for the functions `without`. It needs `ndl` and a `compiled`, which is `ndl.compile`."""
    module = ast.parse(source)
    functions = [n for n in ast.walk(module) if isinstance(n, ast.FunctionDef)]
    _Outlining(without, {f.name for f in functions if _loops(f) or not LOOKS.isdisjoint(_words(f))}).visit(module)
    _Calling(without).visit(module)
    return ast.fix_missing_locations(module)


class _Outlining(ast.NodeTransformer):
    """Takes runs of statements out of innermost loops. The functions `looking` look at numbers, or may."""

    def __init__(self, without: Iterable[str], looking: set[str]) -> None:
        self._without, self._looking = set(without), looking
        self._functions: list[ast.stmt] = []  # of the outermost loop that is visited
        self._count = self._depth = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return node if node.name in self._without else self.generic_visit(node)

    def visit_For(self, node: ast.For) -> list[ast.stmt]:
        return self._loop(node)

    def visit_While(self, node: ast.While) -> list[ast.stmt]:
        return self._loop(node)

    def _loop(self, node: ast.For | ast.While) -> list[ast.stmt]:
        """What stands in the place of a loop: what is left of it, and before an outermost one all functions taken out."""
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1
        if not any(map(_loops, node.body)):
            node.body = [*self._left(node)]
        if self._depth:
            return [node]
        functions, self._functions = self._functions, []
        return [*functions, node]

    def _left(self, node: ast.For | ast.While) -> Iterator[ast.stmt]:
        bound, looks = _names(node, ast.Store), LOOKS | self._looking | set(_grown(node))
        for moves, run in groupby(node.body, lambda statement: _moves(statement, looks)):
            statements = list(run)
            if moves and any(not COMPUTES.isdisjoint(_words(s)) for s in statements):
                function, call = self._taken_out(statements, bound)
                self._functions.append(function)
                yield call
            else:
                yield from statements

    def _taken_out(self, statements: list[ast.stmt], bound: set[str]) -> tuple[ast.stmt, ast.stmt]:
        read: set[str] = set()
        made: set[str] = set()
        for s in statements:
            read |= _names(s, ast.Load) - made
            made |= _names(s, ast.Store)
        name, self._count = f"computation_{self._count}", self._count + 1
        arguments, results = ", ".join(sorted(read & bound)), "".join(f"{n}, " for n in sorted(made))
        function = ast.parse(f"@compiled\ndef {name}({arguments}):\n    return ({results})").body[0]
        assert isinstance(function, ast.FunctionDef)
        function.body[:0] = statements
        return function, ast.parse(f"({results}) = {name}({arguments})" if results else f"{name}({arguments})").body[0]


class _Calling(ast.NodeTransformer):
    """Compiles what is called outside of the functions that are compiled as a whole."""

    def __init__(self, without: Iterable[str]) -> None:
        self._without = set(without)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        whole = any(isinstance(d, ast.Name) and d.id == "compiled" for d in node.decorator_list)
        return node if whole or node.name in self._without else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        match node.func:
            case ast.Name(id=name) if name in CALLED:
                node.func = _compiled(node.func)
            case ast.Attribute(value=ast.Name(id="ndl"), attr=name) if name in CALLED:
                return _compiled(node)
        return node


def _compiled(f: ast.expr) -> ast.expr:
    return ast.Call(func=ast.Name(id="compiled", ctx=ast.Load()), args=[f], keywords=[])


def _loops(node: ast.AST) -> bool:
    return any(isinstance(n, ast.For | ast.While) for n in ast.walk(node))


def _grown(node: ast.AST) -> Iterator[str]:
    """The lists to which something is appended in it."""
    for n in ast.walk(node):
        match n:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="append")):
                yield name


def _moves(statement: ast.stmt, looks: set[str]) -> bool:
    """Whether it can be part of a run: a plain statement without a word of `looks`."""
    if not isinstance(statement, ast.Assign | ast.Expr):
        return False
    return looks.isdisjoint(_words(statement)) and not any(isinstance(n, ast.Yield) for n in ast.walk(statement))


def _words(node: ast.AST) -> Iterator[str]:
    """All names in it, those of attributes too."""
    for n in ast.walk(node):
        if isinstance(n, ast.Name):
            yield n.id
        elif isinstance(n, ast.Attribute):
            yield n.attr


def _names(node: ast.AST, context: type[ast.expr_context]) -> set[str]:
    """The variables that it reads or binds, except for those of functions and comprehensions in it."""
    inner: set[str] = set()
    for n in ast.walk(node):
        if isinstance(n, ast.comprehension):
            inner |= {t.id for t in ast.walk(n.target) if isinstance(t, ast.Name)}
        elif isinstance(n, ast.arg):
            inner.add(n.arg)
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, context)} - inner
