"""The subset of YAML 1.2 in which profiles are written, read into plain values that remember their lines.

Mappings with text keys, lists, text, whole numbers, true and false. No anchors, aliases, tags, null, fractions, dates
or several documents: each can mean something else than it seems to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NoReturn, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent, ScalarEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from sealvm.errors import MalformedError

DOCUMENT_CHARACTERS_MAX: Final = 64 << 10
_DEPTH_MAX: Final = 8
_EVENTS_MAX: Final = 10_000
_INTEGER_DIGITS_MAX: Final = 9

Value: TypeAlias = "str | int | bool | list[Value] | dict[str, Value]"
Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A document's value, and for each place in it the line, counted from 1, where it stands."""

    value: Value
    lines: dict[Path, int]

    def line_of(self, path: Path) -> int:
        """The line of `path`, or of the nearest place around it that exists."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def malformed(source: str, line: int, problem: str, hint: str = "") -> MalformedError:
    """The one form of error for a profile's text: source, line, problem."""
    return MalformedError(f"{source}, line {line}: {problem}", hint=hint, source=source, line=line)


def read_document(text: str, source: str) -> Document:
    """Read `text`, at most 64 Ki characters and 8 levels deep; MalformedError with source and line for others."""
    if len(text) > DOCUMENT_CHARACTERS_MAX:
        raise MalformedError(f"{source}: {len(text)} characters, at most {DOCUMENT_CHARACTERS_MAX} are read")
    try:
        _check_events(text, source)
        root = YAML(typ="safe", pure=True).compose(text)
    except YAMLError as error:
        _raise_from(error, source)
    except ValueError as error:
        # ruamel raises these for characters and escapes that YAML does not allow, without a place
        raise MalformedError(f"{source}: not YAML: {error}") from error
    if root is None:
        raise malformed(source, 1, "the document is empty")
    lines: dict[Path, int] = {}
    return Document(_value(root, (), lines, source), lines)


def _raise_from(error: YAMLError, source: str) -> NoReturn:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    raise malformed(source, mark.line + 1 if mark is not None else 1, f"not YAML: {problem}") from error


def _check_events(text: str, source: str) -> None:
    """Limits that must hold before nodes are composed: the composer recurses, and aliases multiply."""
    depth = 0
    for count, event in enumerate(YAML(typ="safe", pure=True).parse(text)):
        line = event.start_mark.line + 1
        if count > _EVENTS_MAX:
            raise malformed(source, line, f"more than {_EVENTS_MAX} values")
        if isinstance(event, AliasEvent) or (isinstance(event, NodeEvent) and event.anchor is not None):
            raise malformed(source, line, "anchors and aliases are not allowed in a profile")
        if isinstance(event, CollectionStartEvent | ScalarEvent) and event.tag is not None:
            raise malformed(source, line, "tags are not allowed in a profile")
        if isinstance(event, CollectionStartEvent):
            depth += 1
        elif isinstance(event, CollectionEndEvent):
            depth -= 1
        if depth > _DEPTH_MAX:
            raise malformed(source, line, f"nested more than {_DEPTH_MAX} levels deep")


def _value(node: Node, path: Path, lines: dict[Path, int], source: str) -> Value:
    lines[path] = node.start_mark.line + 1
    if isinstance(node, MappingNode):
        return _mapping(node, path, lines, source)
    if isinstance(node, SequenceNode):
        return [_value(child, (*path, index), lines, source) for index, child in enumerate(node.value)]
    return _scalar(node, lines[path], source)


def _mapping(node: MappingNode, path: Path, lines: dict[Path, int], source: str) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for key_node, child in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, ScalarNode) or _kind(key_node) != "str":
            raise malformed(source, line, "a key must be text")
        key = str(key_node.value)
        if key in values:
            raise malformed(source, line, f"key '{key[:64]}' is there twice")
        values[key] = _value(child, (*path, key), lines, source)
        lines[(*path, key)] = line
    return values


def _kind(node: Node) -> str:
    return str(node.tag).removeprefix("tag:yaml.org,2002:")


def _scalar(node: Node, line: int, source: str) -> Value:
    text = str(node.value)
    match _kind(node):
        case "str":
            return text
        case "bool" if text in ("true", "false"):
            return text == "true"
        case "int" if text.isascii() and text.isdigit() and len(text) <= _INTEGER_DIGITS_MAX:
            return int(text)
        case kind:
            raise malformed(
                source,
                line,
                f"'{text[:64]}' reads as YAML's {kind}; expected text, a whole number, true or false",
                hint="put it in quotes if it is text",
            )
