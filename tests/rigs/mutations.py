"""The small mistakes that could stand in a module: each as its code with one thing changed, named by what it changes.

Changed are comparisons and their boundaries, ``and`` and ``or``, conditions, numbers (by one), texts that are not for
people, operators, flags and unions (one left out), rows of tables, order of arguments; left out are calls, raises,
values returned, assignments to attributes and items, and ``with`` where it is a call. Left alone are docstrings, log
lines, what an error says, assertions, annotations of functions, locks, and plain assignments (their names would be
missing, which any test tells).
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

_COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_BINARY: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_LEAVES_NO_NAME = (ast.Raise, ast.AugAssign, ast.Delete, ast.Break, ast.Continue)
"""Statements that can be left out and leave code that runs."""
_ORDERLESS = ("isinstance", "min", "max", "hmac.compare_digest", "getattr")
"""Calls whose first two arguments are the same either way, or never."""
_FOR_PEOPLE = ("log", "logging")
_NO_RULE = ("__slots__", "log")
_HOW_BUILT = ("frozen", "kw_only", "slots", "repr", "extra")
"""Arguments that say how a class is made, not what it means."""
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Place = tuple[Any, str, int | None]
"""A node, its field, and the place in it where that is a list."""


@dataclass(frozen=True)
class _Scope:
    """Where a node stands."""

    name: str = ""
    statement: ast.stmt | None = None
    in_function: bool = False
    in_annotation: bool = False


@dataclass(frozen=True)
class Mutation:
    """One change of a module, in a function's own code or not; ``line`` is its statement's first."""

    name: str
    line: int
    in_function: bool
    _tree: ast.Module
    _place: Place
    _new: ast.AST
    _path: str

    def code(self) -> CodeType:
        """The module with the change made."""
        old = _swap(self._place, self._new)
        try:
            return compile(self._tree, self._path, "exec", dont_inherit=True)
        finally:
            _swap(self._place, old)


def mutations(module: str, source: str, path: str) -> list[Mutation]:
    """All of a module's, in the order of its text; ``path`` is its file's. Names are unique and know no lines."""
    tree = ast.parse(source)
    seen: Counter[str] = Counter()
    found: list[Mutation] = []
    for place, new, scope in _in_children(tree, _Scope()):
        statement = scope.statement
        assert statement is not None
        old = _get(place)
        ast.fix_missing_locations(ast.copy_location(new, old))
        # What is left out has no place any more: it is shown as what stood there.
        before = _header(old if old is statement else statement)
        _swap(place, new)
        after = _header(new if old is statement else statement)
        _swap(place, old)
        name = f"{module} {scope.name or 'module'}: {before} -> {after}"
        seen[name] += 1
        if seen[name] > 1:
            name += f" #{seen[name]}"
        found.append(Mutation(name, statement.lineno, scope.in_function, tree, place, new, path))
    return found


def _get(place: Place) -> Any:
    node, field, index = place
    value = getattr(node, field)
    return value if index is None else value[index]


def _swap(place: Place, new: Any) -> Any:
    """Put ``new`` there: what was there before."""
    node, field, index = place
    old = _get(place)
    if index is None:
        setattr(node, field, new)
    else:
        getattr(node, field)[index] = new
    return old


def _header(statement: ast.AST) -> str:
    """A statement's text without what is indented below it, with one blank between words."""
    if isinstance(statement, ast.With) or not hasattr(statement, "body"):
        text = ast.unparse(statement)
    else:
        shell = type(statement)(**{**dict(ast.iter_fields(statement)), "body": [ast.Pass()]})
        if hasattr(shell, "orelse"):
            shell.orelse = []
        text = ast.unparse(ast.copy_location(shell, statement))
    if hasattr(statement, "body"):
        text = next(line for line in text.splitlines() if not line.startswith("@"))
    return " ".join(text.split())


def _in_children(node: ast.AST, scope: _Scope) -> Iterator[tuple[Place, ast.AST, _Scope]]:
    for field, value in ast.iter_fields(node):
        if _is_no_rule(node, field):
            continue
        inner = scope
        if isinstance(node, _FUNCTIONS):
            inner = _Scope(scope.name, scope.statement, field == "body" or scope.in_function)
        if isinstance(node, ast.AnnAssign) and field == "annotation":
            inner = _Scope(scope.name, scope.statement, scope.in_function, in_annotation=True)
        children = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, child in children:
            if isinstance(child, ast.AST):
                yield from _at((node, field, index), child, inner)


def _is_no_rule(node: ast.AST, field: str) -> bool:
    """What is not looked into: annotations, decorators, what is said to people."""
    if isinstance(node, _FUNCTIONS):
        return field in ("returns", "decorator_list")
    if isinstance(node, ast.ClassDef):
        return field == "decorator_list"
    if isinstance(node, ast.keyword):
        return node.arg in _HOW_BUILT
    if isinstance(node, ast.arg):
        return True
    if isinstance(node, ast.AnnAssign) and field == "annotation":
        return not isinstance(node.target, ast.Name)
    return isinstance(node, ast.Raise | ast.JoinedStr)


def _at(place: Place, node: ast.AST, scope: _Scope) -> Iterator[tuple[Place, ast.AST, _Scope]]:
    if isinstance(node, ast.stmt):
        scope = _Scope(scope.name, node, scope.in_function, scope.in_annotation)
        if _is_left_alone(node):
            return
        for new in _without(node):
            yield place, new, scope
    if isinstance(node, ast.expr) and not isinstance(place[0], ast.Subscript):
        for new in _instead(node, scope):
            yield place, new, scope
    if isinstance(node, (ast.ClassDef, *_FUNCTIONS)):
        scope = _Scope(f"{scope.name}.{node.name}".lstrip("."), node, scope.in_function)
    yield from _in_children(node, scope)


def _is_left_alone(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assert | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.Expr):
        root = node.value
        if isinstance(root, ast.Constant):
            return True
        while isinstance(root, ast.Call | ast.Attribute):
            root = root.func if isinstance(root, ast.Call) else root.value
        return isinstance(root, ast.Name) and root.id in _FOR_PEOPLE
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0]) in _NO_RULE
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _without(node: ast.stmt) -> Iterator[ast.AST]:
    """A statement left out, or what it returns."""
    if isinstance(node, _LEAVES_NO_NAME) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield ast.Pass()
    elif isinstance(node, ast.Assign):
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            yield ast.Pass()
    elif isinstance(node, ast.Return):
        if node.value is not None and not isinstance(node.value, ast.Constant):
            yield ast.Return(ast.Constant(None))
    elif isinstance(node, ast.With):
        item = node.items[0]
        if len(node.items) == 1 and isinstance(item.context_expr, ast.Call) and item.optional_vars is None:
            yield ast.If(ast.Constant(True), node.body, [])
    if isinstance(node, ast.If | ast.While) and not _is_turned_anyway(node.test):
        yield type(node)(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    if isinstance(node, ast.AugAssign) and type(node.op) in _BINARY:
        yield ast.AugAssign(node.target, _BINARY[type(node.op)](), node.value)


def _is_turned_anyway(test: ast.expr) -> bool:
    """Whether a change of the expression already makes its opposite."""
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        return not isinstance(test.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE)
    return isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)


def _instead(node: ast.expr, scope: _Scope) -> Iterator[ast.AST]:
    """What could stand in an expression's place."""
    if isinstance(node, ast.Constant):
        yield from _other_constants(node.value)
    if scope.in_annotation:
        return
    if isinstance(node, ast.Compare):
        for index, op in enumerate(node.ops):
            ops = [*node.ops[:index], _COMPARE[type(op)](), *node.ops[index + 1 :]]
            yield ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.BitOr):
            yield from (node.left, node.right)
        elif type(node.op) in _BINARY:
            yield ast.BinOp(node.left, _BINARY[type(node.op)](), node.right)
    elif isinstance(node, ast.Call):
        yield from _other_order(node)
    elif not scope.in_function and isinstance(node, ast.Dict | ast.Tuple):
        yield from _fewer(node)


def _other_constants(value: object) -> Iterator[ast.Constant]:
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int):
        yield from (ast.Constant(value + 1), ast.Constant(value - 1))
    elif isinstance(value, str) and value:
        yield ast.Constant("x" + value)
    elif isinstance(value, bytes) and value:
        yield ast.Constant(b"x" + value)


def _other_order(node: ast.Call) -> Iterator[ast.Call]:
    args = node.args
    if ast.unparse(node.func) == "Meta":
        for index in range(len(node.keywords)):
            yield ast.Call(node.func, args, [*node.keywords[:index], *node.keywords[index + 1 :]])
    if len(args) < 2 or ast.unparse(node.func) in _ORDERLESS or any(isinstance(arg, ast.Starred) for arg in args):
        return
    if ast.dump(args[0]) != ast.dump(args[1]):
        yield ast.Call(node.func, [args[1], args[0], *args[2:]], node.keywords)


def _fewer(node: ast.Dict | ast.Tuple) -> Iterator[ast.expr]:
    """A table without one of its rows."""
    if isinstance(node, ast.Dict):
        for index in range(len(node.keys)):
            rest = slice(0, index), slice(index + 1, None)
            yield ast.Dict(*([*rows[rest[0]], *rows[rest[1]]] for rows in (node.keys, node.values)))
    elif isinstance(node.ctx, ast.Load):
        for index in range(len(node.elts)):
            yield ast.Tuple([*node.elts[:index], *node.elts[index + 1 :]], ast.Load())
