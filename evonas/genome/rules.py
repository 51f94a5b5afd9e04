"""Constraints between genes: small boolean expressions, read from TOML, that run no code of the user's."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping
from typing import Any

from ..errors import EvonasError
from .gene import shown

MAX_LENGTH = 500
_SENSELESS = (TypeError, ZeroDivisionError, OverflowError)
_BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.eq,  # identity of numbers is no business of a rule's
    ast.IsNot: operator.ne,
}
_FUNCTIONS = {"min": (min, 2, 100), "max": (max, 2, 100), "abs": (abs, 1, 1)}  # with how few and many arguments
_CONSTANTS = {"none": None, "full": None, "true": True, "false": False}


class Rule:
    """A condition such as ``d_model % n_heads == 0``.

    Allowed: gene names, numbers, quoted texts, ``none`` (also written ``full``), ``true``, ``false``, + - * / // %,
    comparisons, ``and``, ``or``, ``not``, ``min``, ``max``, ``abs``. A rule that names a per-layer gene holds for
    every layer. A comparison that makes no sense (none with ``<``, a division by zero) is false.

    Raises EvonasError for anything else.
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or len(text) > MAX_LENGTH:
            raise EvonasError(f"a rule is a text of at most {MAX_LENGTH} characters, got {shown(text)}")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise EvonasError(f"rule {text!r} is not an expression", "For example: d_model % n_heads == 0") from None
        self.text = text
        self.names: frozenset[str] = frozenset(_names(tree, text))
        self.texts = frozenset(n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and type(n.value) is str)
        self._evaluate = _compile(tree, text)

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the rule is met by one value per gene name."""
        try:
            return bool(self._evaluate(values))
        except _SENSELESS:
            return False

    def __repr__(self) -> str:
        return f"Rule({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rule) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __reduce__(self):
        return (Rule, (self.text,))


def _names(tree: ast.AST, text: str) -> set[str]:
    called = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    return {
        n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in called and n.id not in _CONSTANTS
    } - {"None", "True", "False"}


def _compile(node: ast.AST, text: str):
    """Turn the tree into nested closures; only whitelisted nodes exist in it."""
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, (bool, int, float, str))):
        return lambda values, constant=node.value: constant
    if isinstance(node, ast.Name):
        if node.id in _CONSTANTS:
            return lambda values, constant=_CONSTANTS[node.id]: constant
        return lambda values, name=node.id: values[name]
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right, apply = _compile(node.left, text), _compile(node.right, text), _BINARY[type(node.op)]
        return lambda values: apply(_number(left(values)), _number(right(values)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        inner = _compile(node.operand, text)
        return (lambda values: not inner(values)) if isinstance(node.op, ast.Not) else lambda v: -_number(inner(v))
    if isinstance(node, ast.BoolOp):
        parts = [_compile(v, text) for v in node.values]
        join = all if isinstance(node.op, ast.And) else any
        return lambda values: join(part(values) for part in parts)
    if isinstance(node, ast.Compare) and all(type(op) in _COMPARE for op in node.ops):
        terms = [_compile(t, text) for t in (node.left, *node.comparators)]
        tests = [_COMPARE[type(op)] for op in node.ops]
        return lambda values: _compare(terms, tests, values)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
        apply, fewest, most = _FUNCTIONS[node.func.id]
        if node.keywords or not fewest <= len(node.args) <= most:
            raise EvonasError(f"rule {text!r}: {node.func.id} takes {'one argument' if most == 1 else 'two or more'}")
        parts = [_compile(a, text) for a in node.args]
        return lambda values: apply(*(_number(part(values)) for part in parts))
    raise EvonasError(
        f"rule {text!r} uses {type(node).__name__}, which rules don't have",
        "Allowed: gene names, numbers, texts, none, + - * / // %, comparisons, and, or, not, min, max, abs.",
    )


def _compare(terms: list, tests: list, values: Mapping[str, Any]) -> bool:
    try:
        return all(test(terms[k](values), terms[k + 1](values)) for k, test in enumerate(tests))
    except _SENSELESS:
        return False


def _number(value: Any) -> Any:
    # Text times a number would build a huge text; None has no arithmetic.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("not a number")
    return value
