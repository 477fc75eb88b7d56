"""One comparison, word or order key as SQL over the query table: names and types are checked here.

Conditions are never NULL, so that NOT means what it says: a feature without a value is unequal to
every value and neither above nor below one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mistudio_core.corpus.fulltext import phrase, searchable
from mistudio_core.errors import InvalidInput
from mistudio_find.fields import (
    ASSOCIATION_FIGURES,
    ASSOCIATIONS,
    CHOICE,
    LIST_NUMBERS,
    LISTS,
    NAMES,
    SCALARS,
    SCORED,
    TRUTH,
    WHOLE,
    Scalar,
    folded,
)
from mistudio_find.table import Sql

_ORDERED = ("<", "<=", ">", ">=")
_LAST = "\U0010ffff"
_KEYWORDS = ("AND", "OR", "NOT")


class Value(NamedTuple):
    """A word of a filter."""

    text: str
    """Without quotes."""
    quoted: bool
    """Whether it stood in quotes."""


def joined(word: str, parts: Sequence[Sql]) -> Sql:
    """Conditions with AND or OR between them."""
    if len(parts) == 1:
        return parts[0]
    return Sql(word.join(f"({p.text})" for p in parts), tuple(v for p in parts for v in p.values))


def text_search(path: Sequence[Value]) -> Sql:
    """A bare word or quoted string: features whose texts, keywords, tags or tokens hold it. Raises InvalidInput."""
    text, quoted = ".".join(part.text for part in path), any(part.quoted for part in path)
    if not quoted and text.upper() in _KEYWORDS:
        allowed = f"{text.upper()}, in capitals, before or between conditions"
        raise InvalidInput.field("filter", text, allowed, f'Quote it to search for the word: "{text}".')
    if not quoted and (text in NAMES or path[0].text in (ASSOCIATIONS, *SCORED)):
        remedy = f'Compare it, as in {_example(text)}, or quote it to search for the word: "{text}".'
        raise InvalidInput.field("filter", text, "a field with a comparison, or words", remedy)
    if not searchable(text):
        raise InvalidInput.field("filter", text, "words with a letter or a digit")
    return Sql("place IN (SELECT rowid FROM words WHERE words MATCH ?)", (phrase(text),))


def compare(path: Sequence[Value], operator: str, value: Value) -> Sql:
    """A field compared with a value. Raises InvalidInput for an unknown field, operator or type."""
    name = ".".join(part.text for part in path)
    if name in SCALARS:
        return _scalar(SCALARS[name], operator, value)
    head, rest = path[0].text, [part.text for part in path[1:]]
    if head == ASSOCIATIONS:
        return _association(name, rest, operator, value)
    if head in LISTS and not rest:
        return _has(name, operator, value)
    if head in SCORED:
        return _score(head, ".".join(rest), operator, value)
    raise _unknown("filter", name)


def order_key(path: tuple[str, ...], way: str) -> Sql:
    """An order by one field, those without a value last. Raises InvalidInput."""
    name, rest = ".".join(path), ".".join(path[1:])
    if name in SCALARS:
        column = SCALARS[name].column
        return Sql(f"{column} {way} NULLS LAST")
    if path[0] in SCORED and rest:
        key = Sql(
            "(SELECT i.score FROM items i WHERE i.list = ? AND i.name = ? AND i.place = features.place)",
            (LIST_NUMBERS[path[0]], folded(rest)),
        )
    elif path[0] == ASSOCIATIONS and len(path) > 2 and path[1] in ASSOCIATION_FIGURES:
        key = Sql(
            f"(SELECT max(a.{path[1]}) FROM associations a WHERE a.value = ? AND a.place = features.place)",  # noqa: S608
            (folded(".".join(path[2:])),),
        )
    else:
        raise _unknown("order_by", name)
    return Sql(f"{key.text} {way} NULLS LAST", key.values)


def _scalar(field: Scalar, operator: str, value: Value) -> Sql:
    if operator == ":" and value == Value("*", False):
        return Sql(f"{field.column} IS NOT NULL")
    if operator in _ORDERED and field.kind in (CHOICE, TRUTH):
        raise InvalidInput.field("filter", f"{field.path} {operator}", f"{field.path} with = or !=")
    given = _typed(field, value)
    if operator == "!=":
        return Sql(f"{field.column} IS NOT ?", (given,))
    if operator in _ORDERED:
        return Sql(f"ifnull({field.column} {operator} ?, 0)", (given,))
    return Sql(f"{field.column} IS ?", (given,))


def _typed(field: Scalar, value: Value) -> float | int:
    if field.kind == CHOICE:
        if value.text in field.values:
            return field.values.index(value.text)
    elif field.kind == TRUTH:
        if value.text in ("true", "false") and not value.quoted:
            return int(value.text == "true")
    elif not value.quoted:
        number = _number(value.text)
        if number is not None and (field.kind != WHOLE or number == int(number)):
            return number
    raise InvalidInput.field(
        field.path, value.text, field.allowed, f"Correct it in the filter: {_example(field.path)}."
    )


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < 1e300 and text[-1:].isdigit() else None


def _has(name: str, operator: str, value: Value) -> Sql:
    if operator != ":":
        raise InvalidInput.field("filter", f"{name} {operator}", f"{name} with ':'", f"Write {_example(name)}.")
    condition = _named("name", value)
    return Sql(
        f"place IN (SELECT place FROM items WHERE list = ? AND {condition.text})",  # noqa: S608
        (LIST_NUMBERS[name], *condition.values),
    )


def _named(column: str, value: Value) -> Sql:
    """A name as it is, with `*` behind its beginning, or any for `*` alone."""
    name = folded(value.text)
    if value.quoted or not name.endswith("*"):
        return Sql(f"{column} = ?", (name,))
    begin = name[:-1]
    return Sql(f"{column} >= ? AND {column} < ?", (begin, begin + _LAST)) if begin else Sql("1")


def _score(head: str, name: str, operator: str, value: Value) -> Sql:
    number = _figure(f"{head}.{name}", operator, value)
    return Sql(
        f"place IN (SELECT place FROM items WHERE list = ? AND name = ? AND score {operator} ?)",  # noqa: S608
        (LIST_NUMBERS[head], folded(name), number),
    )


def _association(path: str, rest: Sequence[str], operator: str, value: Value) -> Sql:
    """`associations:x`, `associations.column:x`, `associations.auroc.x > 0.8`."""
    if not rest or rest in (["value"], ["column"]):
        if operator != ":":
            raise InvalidInput.field("filter", f"{path} {operator}", f"{path} with ':'", f"Write {_example(path)}.")
        condition = _named('"column"' if rest == ["column"] else "value", value)
    elif rest[0] in ASSOCIATION_FIGURES and len(rest) > 1:
        number = _figure(path, operator, value)
        condition = Sql(f"value = ? AND {rest[0]} {operator} ?", (folded(".".join(rest[1:])), number))
    else:
        raise InvalidInput.field("filter", path, _ASSOCIATION_FORMS)
    return Sql(f"place IN (SELECT place FROM associations WHERE {condition.text})", condition.values)  # noqa: S608


def _figure(path: str, operator: str, value: Value) -> float:
    if operator == ":":
        raise InvalidInput.field("filter", f"{path}:{value.text}", f"{path} with =, !=, <, <=, > or >= and a number")
    number = None if value.quoted else _number(value.text)
    if number is None:
        raise InvalidInput.field(path, value.text, "a number", f"Correct it in the filter, as in {path} > 0.5.")
    return number


def _unknown(field: str, name: str) -> InvalidInput:
    if field == "order_by":
        allowed = [*sorted(SCALARS), *(f"{n}.<name>" for n in sorted(SCORED))]
        allowed += [f"{ASSOCIATIONS}.{figure}.<value>" for figure in ASSOCIATION_FIGURES]
    else:
        allowed = list(NAMES)
    return InvalidInput.field(field, name, ", ".join(allowed), "Name one of these fields.")


_ASSOCIATION_FORMS = ", ".join(
    [
        f"{ASSOCIATIONS}:<value>",
        f"{ASSOCIATIONS}.column:<column>",
        *(f"{ASSOCIATIONS}.{n}.<value> > 0.5" for n in ASSOCIATION_FIGURES),
    ]
)


def _example(name: str) -> str:
    """How a field is compared."""
    field = SCALARS.get(name)
    if field is None:
        return f'{name.partition(".")[0]}:"name"'
    if field.kind == CHOICE:
        return f"{name} = {field.values[0]}"
    return f"{name} = true" if field.kind == TRUTH else f"{name} > 0.5" if field.kind != WHOLE else f"{name} > 5"
