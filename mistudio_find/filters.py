"""Filters in AIP-160 syntax and orders in AIP-132 syntax, compiled to parameterised SQL.

Only names from fields.py and numbers made here reach the SQL text; every value is a parameter.
OR binds closer than AND, as AIP-160 has it. Bare words and quoted strings search the texts.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from mistudio_core.errors import InvalidInput, Unsupported
from mistudio_find import conditions
from mistudio_find.conditions import Value, joined
from mistudio_find.fields import NAMES
from mistudio_find.table import ALL, IN_ORDER, Sql

if TYPE_CHECKING:
    from lark import Lark, Token, Tree

LONGEST = 2000
"""Most characters of a filter."""
MOST_CONDITIONS = 60
"""Most conditions of a filter."""
DEEPEST = 20
"""Most parentheses inside each other."""
MOST_KEYS = 8
"""Most fields of an order."""
_GRAMMAR = r"""
start: expression
expression: sequence (_AND sequence)*
sequence: factor+
factor: term (_OR term)*
term: simple | _NOT simple -> negated | _MINUS simple -> negated
simple: restriction | "(" expression ")"
restriction: member [COMPARATOR (member | "(" expression ")")] | CALL
member: value ("." value)*
value: TEXT | STRING | NUMBER

_AND.4: /AND(?![\w.\-])/
_OR.4: /OR(?![\w.\-])/
_NOT.4: /NOT(?![\w.\-])/
CALL.3: /[A-Za-z_][\w.]*\(/
NUMBER.2: /-?\d+(\.\d+)?([eE][+\-]?\d+)?(?![\w\-.])/
STRING.2: /"(\\.|[^"\\])*"|'(\\.|[^'\\])*'/s
COMPARATOR: /<=|>=|!=|=|<|>|:/
_MINUS: "-"
TEXT: /[^\s()".,:=<>!'\-][^\s()".,:=<>!]*/
%ignore /\s+/
"""
_ESCAPES = {"n": "\n", "t": "\t"}
_KEY = re.compile(r"(?P<path>[^\s]+)(?:\s+(?P<way>asc|desc))?")
_EXAMPLE = 'for example coherence_score >= 0.6 AND semantic_tags:"json" AND NOT dead = true'


@lru_cache(maxsize=1)
def _parser() -> Lark:
    from lark import Lark

    return Lark(_GRAMMAR, parser="lalr", maybe_placeholders=False, lexer_callbacks={"CALL": _refuse_call})


def _refuse_call(token: Token) -> Token:
    raise Unsupported(
        f"filter: the function {token.rstrip('(')}",
        why="filters know no functions",
        instead=f"Compare fields: {', '.join(NAMES)}.",
    )


def compile_filter(text: str) -> Sql:
    """The condition that a filter asks for; ALL for an empty one. Raises InvalidInput, Unsupported."""
    if not text.strip():
        return ALL
    if len(text) > LONGEST:
        raise InvalidInput.field("filter", text, f"at most {LONGEST} characters")
    from lark import UnexpectedInput, UnexpectedToken

    try:
        tree = _parser().parse(text)
    except UnexpectedInput as error:
        ended = isinstance(error, UnexpectedToken) and error.token.type == "$END"
        raise _misread(text, None if ended else error.pos_in_stream) from error
    return _Compiler(text).expression(_child(tree, 0), 0)


def compile_order(text: str) -> Sql:
    """What an order asks for; features without a value come last. Raises InvalidInput."""
    if not text.strip():
        return IN_ORDER
    keys, seen = [], set[str]()
    for part in text.split(","):
        match = _KEY.fullmatch(part.strip())
        if match is None:
            raise InvalidInput.field("order_by", text, 'fields with commas between them, each with " desc" or nothing')
        path = tuple(match["path"].split("."))
        if match["path"] in seen or len(seen) == MOST_KEYS:
            raise InvalidInput.field("order_by", text, f"at most {MOST_KEYS} different fields")
        seen.add(match["path"])
        keys.append(conditions.order_key(path, "DESC" if match["way"] == "desc" else "ASC"))
    return Sql(", ".join(key.text for key in keys), tuple(v for key in keys for v in key.values))


def _misread(text: str, at: int | None) -> InvalidInput:
    place = len(text.rstrip()) if at is None or at < 0 else at
    rest = text[place:].strip()
    here = f"at character {place + 1}, before {rest[:20]!r}" if rest else "at its end"
    return InvalidInput.field("filter", text, f"AIP-160 syntax, {_EXAMPLE}", f"It cannot be read {here}.")


def _child(tree: Tree[Token], at: int) -> Tree[Token]:
    child = tree.children[at]
    if isinstance(child, str):
        raise TypeError("the grammar has a token where a rule is expected")
    return child


class _Compiler:
    """One filter."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._conditions = 0

    def expression(self, tree: Tree[Token], depth: int) -> Sql:
        if depth > DEEPEST:
            raise InvalidInput.field("filter", self._text, f"at most {DEEPEST} parentheses inside each other")
        sequences = [self._sequence(_child(tree, i), depth) for i in range(len(tree.children))]
        return joined(" AND ", sequences)

    def _sequence(self, tree: Tree[Token], depth: int) -> Sql:
        return joined(" AND ", [self._factor(_child(tree, i), depth) for i in range(len(tree.children))])

    def _factor(self, tree: Tree[Token], depth: int) -> Sql:
        return joined(" OR ", [self._term(_child(tree, i), depth) for i in range(len(tree.children))])

    def _term(self, tree: Tree[Token], depth: int) -> Sql:
        inner = _child(_child(tree, 0), 0)
        found = self.expression(inner, depth + 1) if inner.data == "expression" else self._restriction(inner)
        return Sql(f"NOT ({found.text})", found.values) if tree.data == "negated" else found

    def _restriction(self, tree: Tree[Token]) -> Sql:
        self._conditions += 1
        if self._conditions > MOST_CONDITIONS:
            raise InvalidInput.field("filter", self._text, f"at most {MOST_CONDITIONS} conditions")
        path = _member(_child(tree, 0))
        if len(tree.children) == 1:
            return conditions.text_search(path)
        operator, argument = str(tree.children[1]), _child(tree, 2)
        if argument.data == "expression":
            name = ".".join(part.text for part in path)
            raise Unsupported(
                f"filter: parentheses behind {name}{operator}",
                why="a comparison has one value",
                instead=f"Write ({name}{operator}a OR {name}{operator}b).",
            )
        return conditions.compare(path, operator, _argument(_member(argument)))


def _member(tree: Tree[Token]) -> tuple[Value, ...]:
    return tuple(_value(_child(tree, i)) for i in range(len(tree.children)))


def _value(tree: Tree[Token]) -> Value:
    token = tree.children[0]
    text = str(token)
    quoted = getattr(token, "type", "") == "STRING"
    return Value(_unquoted(text) if quoted else text, quoted)


def _unquoted(text: str) -> str:
    """A string's text: a backslash takes the next character as it is, but for a line break (n) and a tab (t)."""
    return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), text[1:-1], flags=re.DOTALL)


def _argument(parts: tuple[Value, ...]) -> Value:
    """What stands right of a comparator: dots belong to it."""
    return Value(".".join(part.text for part in parts), len(parts) == 1 and parts[0].quoted)
