"""One small change of one line of the product: what a mistake in it could look like.

Owns    finding every change of a file that means something, and making it in the text. Text in, text out.
Why     by position in the text, not by printing the tree again, so that a diff shows the one change alone.

Left alone: annotations, decorators, docstrings, messages (texts that are no single word), assertions,
logging, imports, what only a type checker sees, and what no caller can tell: how an encoding is spelled,
nothing in place of a `False` that is returned (another change of the same line makes it True).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

COMPARED = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
COMPUTED = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "//", ast.FloorDiv: "*", ast.Div: "*", ast.Mod: "*",
    ast.BitOr: "&", ast.BitAnd: "|", ast.LShift: ">>", ast.RShift: "<<",
}  # fmt: skip
SIGNS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "//", ast.Div: "/", ast.Mod: "%",
    ast.BitOr: "|", ast.BitAnd: "&", ast.LShift: "<<", ast.RShift: ">>",
}  # fmt: skip
LOGGERS = re.compile(r"(^|\.)_?log(ger)?\.(debug|info|warning|error|exception|critical|log)$")
WORD = re.compile(r"[\w.:/-]+")
ENCODINGS = frozenset({"ascii", "utf-8", "utf-8-sig"})
"""Python takes `utf-8_` for UTF-8."""
TYPING = frozenset({"TypeVar", "ParamSpec", "NewType", "cast"})
"""Calls whose first argument is for the type checker, or is a name that is never looked at."""


@dataclass(frozen=True)
class Mutation:
    """Characters `start` to `end` of a file's text, which begin on `line` (1-based), become `text`."""

    kind: str
    line: int
    start: int
    end: int
    text: str
    statement: tuple[int, int]
    """First and last line of the statement it is in."""
    scope: str
    """The function it is in; empty: what importing runs."""

    def applied(self, source: str) -> str:
        return source[: self.start] + self.text + source[self.end :]


def mutations(source: str) -> list[Mutation]:
    """Every change of this file's text that is worth trying."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    return finder.found


class _Finder(ast.NodeVisitor):
    def __init__(self, source: str) -> None:
        self.source = source
        self.found: list[Mutation] = []
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._lines = source.splitlines()
        self._statement: ast.stmt | None = None
        self._scope: list[str] = []

    # --- positions: the tree counts bytes, a text has characters

    def _at(self, line: int, column_bytes: int) -> int:
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column_bytes].decode())

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._at(node.lineno, node.col_offset), self._at(node.end_lineno, node.end_col_offset)

    def _add(self, kind: str, node: ast.expr | ast.stmt, start: int, end: int, text: str) -> None:
        statement = self._statement
        assert statement is not None
        self.found.append(
            Mutation(
                kind,
                self.source.count("\n", 0, start) + 1,
                start,
                end,
                text,
                (statement.lineno, statement.end_lineno or statement.lineno),
                ".".join(self._scope),
            )
        )

    def _replace(self, kind: str, node: ast.expr | ast.stmt, text: str) -> None:
        self._add(kind, node, *self._span(node), text)

    def _between(self, kind: str, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """Change the sign that stands between two operands; brackets and comments around it stay."""
        begin, end = self._span(left)[1], self._span(right)[0]
        sign = re.search(re.escape(old).replace(r"\ ", r"\s+"), self.source[begin:end])
        if sign:
            self._add(kind, left, begin + sign.start(), begin + sign.end(), new)

    # --- what is walked

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.stmt):
            before, self._statement = self._statement, node
            super().visit(node)
            self._statement = before
        else:
            super().visit(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        # A default is evaluated where the function is made, not where it is called.
        for default in (*node.args.defaults, *(each for each in node.args.kw_defaults if each)):
            self.visit(default)
        self._scope.append(node.name)
        self._body(node.body)
        self._scope.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._body(node.body)

    def _body(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Assert(self, node: ast.Assert) -> None:
        """What must be so is no behaviour."""

    def visit_Expr(self, node: ast.Expr) -> None:
        value = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(value, ast.Call):
            if LOGGERS.search(ast.unparse(value.func)):
                return
            self._replace("call removed", node, "pass")
        if not isinstance(value, ast.Constant):
            self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        names = {target.id for target in node.targets if isinstance(target, ast.Name)}
        if names & {"__all__", "__slots__"}:
            return
        if all(isinstance(target, (ast.Attribute, ast.Subscript)) for target in node.targets):
            self._replace("assignment removed", node, "pass")
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        new = COMPUTED.get(type(node.op))
        if new:
            self._between("arithmetic", node.target, node.value, SIGNS[type(node.op)] + "=", new + "=")
        self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace("raise removed", node, "pass")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None:
            if not (isinstance(node.value, ast.Constant) and str(node.value.value) in ("None", "False")):
                self._replace("return dropped", node, "return None")
            self.visit(node.value)

    def _branch(self, node: ast.If | ast.While | ast.IfExp) -> None:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if not (isinstance(node.test, ast.Constant)):
            # Written behind the test, so that a name bound in it is bound still; a loop is not made endless.
            begin, end = self._span(node.test)
            text = self.source[begin:end]
            if not isinstance(node, ast.While):
                self._add("branch forced", node, begin, end, f"(({text}) or True)")
            self._add("branch forced", node, begin, end, f"(({text}) and False)")
        self.generic_visit(node)

    visit_If = visit_While = visit_IfExp = _branch

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """`Literal["a"]` is for the type checker alone."""
        if not (isinstance(node.value, ast.Name) and node.value.id == "Literal"):
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in TYPING:
            for argument in node.args[1:]:
                self.visit(argument)
        else:
            self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        left = node.left
        for op, right in zip(node.ops, node.comparators, strict=True):
            old = {ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in"}.get(type(op))
            sign = (
                old
                or {"Lt": "<", "LtE": "<=", "Gt": ">", "GtE": ">=", "Eq": "==", "NotEq": "!="}[
                    type(op).__name__
                ]
            )
            self._between("comparison", left, right, sign, COMPARED[type(op)])
            left = right
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._between("boolean", left, right, old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        begin, end = self._span(node)
        if isinstance(node.op, ast.Not):
            inner = self._span(node.operand)[0]
            self._add("negation dropped", node, begin, end, f"bool({self.source[inner:end]})")
        elif isinstance(node.op, ast.USub):
            self._add("sign dropped", node, begin, begin + 1, "")
            if isinstance(node.operand, ast.Constant):
                return
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if not self._scope and _is_union(node):
            return  # of types
        new = COMPUTED.get(type(node.op))
        texts = [n for n in ast.walk(node) if isinstance(n, (ast.JoinedStr, ast.Constant))]
        said = any(isinstance(n, ast.JoinedStr) or isinstance(n.value, (str, bytes)) for n in texts)
        if new and not said:
            self._between("arithmetic", node.left, node.right, SIGNS[type(node.op)], new)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        match node.value:
            case bool():
                self._replace("constant", node, str(not node.value))
            case int() | float():
                begin, end = self._span(node)
                self._replace("constant", node, f"({self.source[begin:end]} + 1)")
            case str() if WORD.fullmatch(node.value) and node.value not in ENCODINGS:
                self._replace("constant", node, repr(node.value + "_"))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """What is said to people; its positions are not those of the text before Python 3.12."""

    def visit_Import(self, node: ast.Import) -> None:
        """Nothing."""

    visit_ImportFrom = visit_Global = visit_Nonlocal = visit_Import

    def visit_match_case(self, node: ast.match_case) -> None:
        if node.guard is not None:
            self.visit(node.guard)
        self._body(node.body)


def _is_union(node: ast.expr) -> bool:
    """`A | B[int] | None`, as types are written."""
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.BitOr) and _is_union(node.left) and _is_union(node.right)
    name = node.value if isinstance(node, ast.Subscript) else node
    if isinstance(name, ast.Constant):
        return name.value is None
    last = name.attr if isinstance(name, ast.Attribute) else name.id if isinstance(name, ast.Name) else ""
    return (last[:1].isupper() and not last.isupper()) or last in ("int", "str", "bytes", "float", "bool")


def difference(source: str, mutation: Mutation) -> Iterator[str]:
    """The changed lines, before and after."""
    changed = mutation.applied(source)
    old, new = source.splitlines(), changed.splitlines()
    last = len(old) - 1
    while last >= mutation.line and old[last] == new[last - len(old) + len(new)]:
        last -= 1
    yield from (f"- {line}" for line in old[mutation.line - 1 : last + 1])
    yield from (f"+ {line}" for line in new[mutation.line - 1 : last + 1 - len(old) + len(new)])
