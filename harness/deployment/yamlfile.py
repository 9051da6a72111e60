"""Reads YAML that people wrote: safe types only, and one clear line for what YAML lets through silently.

Duplicate keys, tabs, binary files and aliases that expand without bound ("billion laughs") are refused.
"""

from collections.abc import Hashable
from pathlib import Path

import yaml

from harness.errors import BadInput
from harness.texts import shown_path

_MAX_BYTES = 1 << 20
_MAX_NODES = 20_000


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys, unbounded expansion, and more values than anybody writes."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.nodes_built = 0
        self.nodes_read = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # Counted while reading: a megabyte of values would take this reader some ten seconds.
        self.nodes_read += 1
        if self.nodes_read > _MAX_NODES:
            raise yaml.YAMLError(f"more than {_MAX_NODES} values")
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        self.nodes_built += 1
        if self.nodes_built > _MAX_NODES:
            raise yaml.YAMLError(f"more than {_MAX_NODES} values after expanding aliases")
        return super().construct_object(node, deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain value", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _count_expanded(node: yaml.Node, memo: dict[int, int], path: frozenset[int]) -> int:
    """How many values the node has once every alias is written out."""
    if id(node) in path:
        raise yaml.YAMLError("an alias refers to what contains it")
    if id(node) not in memo:
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = list(node.value)
        inside = path | {id(node)}
        memo[id(node)] = 1 + sum(_count_expanded(child, memo, inside) for child in children)
    return memo[id(node)]


def load_yaml(path: Path) -> dict[str, object]:
    """The mapping in a YAML file.

    Raises:
        BadInput: the file cannot be read, or is no YAML mapping with text keys; one line, with its place.
    """
    accepted, where = "a YAML file with a mapping at its top", shown_path(path)
    text = _read_text(path, accepted)
    for number, line in enumerate(text.splitlines(), start=1):
        if "\t" in line[: len(line) - len(line.lstrip())]:
            raise BadInput(f"{where} line {number}", line, "indentation by spaces", "replace the tab by spaces")
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None and _count_expanded(node, {}, frozenset()) > _MAX_NODES:
            raise BadInput(where, "aliases", f"at most {_MAX_NODES} values once aliases are written out")
        content = loader.construct_document(node) if node is not None else None
    except RecursionError:
        raise BadInput(where, "nesting", "a mapping nested less deeply") from None
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise BadInput(f"{where}{line}", error.problem or str(error), accepted) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # What follows a semicolon is advice to programmers.
        raise BadInput(where, str(error).partition(";")[0], accepted) from error
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise BadInput(where, content, accepted)
    return content


def _read_text(path: Path, accepted: str) -> str:
    where = shown_path(path)
    try:
        if not path.is_file() and path.exists():
            raise BadInput(where, "not a regular file", accepted)
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise BadInput(where, f"{size} bytes", f"{accepted}, at most {_MAX_BYTES} bytes")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(where, "binary content", accepted) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadInput(where, reason, accepted, "check the path") from error
