"""The mutants of a file: copies that differ in one number, operator, truth value, result or statement.

Docstrings, messages, type annotations and decorators stay, and what only a GPU runs: ``tests/cuda`` is for that.
"""

import ast
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WIDTH = 100  # of a longer statement a part is shown
_UNTOUCHED = {"annotation", "returns", "decorator_list"}
_ARGUMENTS = {"strict", "dash", "order"}  # assertions, and how curves are drawn
_INSTEAD: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Add: (ast.Sub,),
    ast.Mult: (ast.Div,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.Mult,),
    ast.Break: (ast.Continue,),
    ast.Continue: (ast.Break,),
}
for one, other in (("Eq", "NotEq"), ("Is", "IsNot"), ("In", "NotIn"), ("And", "Or"), ("Sub", "Add"), ("Div", "Mult")):
    _INSTEAD |= {getattr(ast, one): (getattr(ast, other),)}
    _INSTEAD.setdefault(getattr(ast, other), (getattr(ast, one),))


@dataclass(frozen=True)
class Mutant:
    """A change of ``file`` in a statement of ``lines``; of a long one ``change`` shows the part that is another."""

    file: str
    line: int
    lines: range
    change: str
    _place: tuple[ast.AST, str, int | None]
    _new: ast.AST
    _tree: ast.AST

    def __str__(self) -> str:
        return f"{self.file}:{self.line}  {self.change}"

    def source(self) -> str:
        """The whole file, mutated."""
        with _changed(self._place, self._new):
            return ast.unparse(self._tree)


def mutants(path: Path, name: str) -> list[Mutant]:
    """All mutants of the file at ``path``, called ``name``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for node, place, above in _places(tree, []):
        for new in _variants(node, place[1]):
            shown = next((whole for whole in above if len(ast.unparse(whole)) <= _WIDTH), node)
            before = ast.unparse(shown)
            with _changed(place, new):
                change = f"{before}  ->  {ast.unparse(new if shown is node else shown)}".replace("\n", " ")
            whole = (above or [node])[0]
            lines = range(whole.lineno, whole.end_lineno + 1)
            found.append(Mutant(name, node.lineno, lines, change, place, new, tree))
    return found


@contextmanager
def _changed(place: tuple[ast.AST, str, int | None], new: ast.AST) -> Iterator[None]:
    parent, field, index = place
    value = getattr(parent, field)
    setattr(parent, field, new if index is None else [*value[:index], new, *value[index + 1 :]])
    try:
        yield
    finally:
        setattr(parent, field, value)


def _places(node: ast.AST, above: list[Any]) -> Iterator[tuple[Any, Any, list[Any]]]:
    """Nodes that may change, each with its place and what it is a part of, from its statement down."""
    for field, value in ast.iter_fields(node):
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            keep = field in _UNTOUCHED or isinstance(child, ast.JoinedStr) or getattr(child, "arg", None) in _ARGUMENTS
            if not isinstance(child, ast.AST) or keep or (isinstance(child, ast.stmt) and _for_gpus(child)):
                continue
            if hasattr(child, "lineno"):
                yield child, (node, field, index), above
            inner = [] if hasattr(child, "body") and not isinstance(child, ast.expr) else [*above, child]
            yield from _places(child, [one for one in inner if isinstance(one, ast.stmt | ast.expr)])


def _for_gpus(node: ast.stmt) -> bool:
    """Whether a simple statement, or what a compound one depends on, names CUDA."""
    header = [getattr(node, "test", None), *[item.context_expr for item in getattr(node, "items", [])]]
    told = " ".join(ast.unparse(part) for part in (header if hasattr(node, "body") else [node]) if part is not None)
    return "cuda" in told or "cudnn" in told


def _variants(node: Any, field: str) -> list[Any]:
    match node:
        case ast.Constant(value=bool(value)):
            return [ast.Constant(not value)]
        case ast.Constant(value=int(value) | float(value)):
            return [ast.Constant(value + 1), ast.Constant(value - 1)]
        case ast.Compare(ops=[operator, *rest]):
            return [_with(node, ops=[new(), *rest]) for new in _INSTEAD[type(operator)]]
        case ast.BoolOp(op=operator) | ast.BinOp(op=operator):
            return [_with(node, op=new()) for new in _INSTEAD.get(type(operator), ())]
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            return [node.operand]
        case ast.Name() | ast.Attribute() | ast.Call() if field == "test":
            return [ast.UnaryOp(ast.Not(), node)]
    return _statements(node)


def _statements(node: Any) -> list[Any]:
    match node:
        case ast.Break() | ast.Continue():
            return [new() for new in _INSTEAD[type(node)]]
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            return [ast.Return(ast.Constant(None))]
        case ast.Expr(value=ast.Constant()):
            return []
        case ast.Expr() | ast.Raise() | ast.AugAssign() | ast.Delete():
            return [ast.Pass()]
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return [ast.Pass()]
    return []


def _with(node: ast.AST, **fields: Any) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed
