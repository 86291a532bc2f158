"""YAML in, plain data and the place of every key out; problems printed with line and caret.

YAML's traps are closed here: `1e-4` is a number, `012` and `1:30` are not octal or base 60, dates
stay text, a key written twice is an error. Nothing here knows what a sweep is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sae_cli.errors import SpecError, UsageError
from sae_cli.spec.problems import Loc, Problem, SpecProblems


@dataclass(frozen=True)
class Mark:
    """A place: origin (a file, or the `--set` that said it), 1-based line and column, its line."""

    origin: str
    line: int
    col: int
    text: str


@dataclass
class Document:
    """A parsed file: its data, for each path the mark of its key and of its value, and the keys
    that were given twice."""

    origin: str
    data: Any
    problems: list[Problem] = field(default_factory=list)
    keys: dict[Loc, Mark] = field(default_factory=dict)
    values: dict[Loc, Mark] = field(default_factory=dict)

    def mark(self, problem: Problem) -> Mark | None:
        """Where to point for `problem`: its own place, else the nearest one around it."""
        first, second = (
            (self.keys, self.values) if problem.at == "key" else (self.values, self.keys)
        )
        loc = problem.loc
        while True:
            found = first.get(loc) or second.get(loc)
            if found is not None or not loc:
                return found
            loc, first, second = loc[:-1], self.keys, self.values


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 numbers, no dates, and no silent duplicate keys."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, rx) for tag, rx in resolvers if tag.rsplit(":", 1)[1] in ("bool", "null", "merge")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_INT = re.compile(r"[-+]?[0-9][0-9_]*$|0x[0-9a-fA-F_]+$")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*)?\.?[0-9]+(?:[eE][-+]?[0-9]+)?$|[-+]?[0-9][0-9_]*\.(?:[eE][-+]?[0-9]+)?$"
    r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "")
    return int(text, 16) if text.lower().startswith("0x") else int(text)


_Loader.add_constructor("tag:yaml.org,2002:int", _int)


def parse(text: str, origin: str) -> Document:
    """Parse YAML `text`. Raises SpecError on broken syntax."""
    lines = text.splitlines() or [""]
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            raise SpecError(f"{origin}:1:1: the file is empty")
        document = Document(origin, None)
        document.data = _walk(loader, root, (), document, lines)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        line, col = (mark.line, mark.column) if mark else (0, 0)
        shown = Mark(origin, line + 1, col + 1, lines[min(line, len(lines) - 1)])
        raise SpecError(_render(shown, "", f"not valid YAML: {e.problem or e.context}")) from e
    except yaml.YAMLError as e:
        raise SpecError(f"{origin}:1:1: not valid YAML: {e}") from e
    finally:
        loader.dispose()
    return document


def _walk(loader: _Loader, node: yaml.Node, loc: Loc, doc: Document, lines: list[str]) -> Any:
    def mark(n: yaml.Node) -> Mark:
        at = n.start_mark
        return Mark(doc.origin, at.line + 1, at.column + 1, lines[min(at.line, len(lines) - 1)])

    doc.values[loc] = mark(node)
    if isinstance(node, yaml.SequenceNode):
        return [_walk(loader, n, (*loc, i), doc, lines) for i, n in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    seen: dict[str, Mark] = {}
    for key, _ in node.value:
        name = key.value
        if name != "<<" and name in seen:
            place = (*loc, name)
            doc.keys[place] = mark(key)
            doc.problems.append(
                Problem(place, f"this key was already given at line {seen[name].line}", at="key")
            )
        seen.setdefault(name, mark(key))
    loader.flatten_mapping(node)
    out: dict[str, Any] = {}
    for key, value in node.value:
        name = str(key.value)
        doc.keys.setdefault((*loc, name), mark(key))
        out[name] = _walk(loader, value, (*loc, name), doc, lines)
    return out


def load(path: Path) -> Document:
    """Parse the file at `path`. Raises UsageError if it can't be read."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except (FileNotFoundError, IsADirectoryError, PermissionError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not UTF-8 text"
        raise UsageError(f"{path}: {reason}") from e


def override(document: Document, assignment: str) -> None:
    """Apply one `--set a.b=v`; `v` is read as YAML. Raises UsageError if it can't be applied."""
    path, eq, text = assignment.partition("=")
    origin = f"--set {assignment}"
    if not eq or not path.strip():
        raise UsageError(f"{origin}: write --set section.field=value, e.g. --set train.lr=3e-4")
    value = parse(text, origin).data if text.strip() else None
    parts: list[str | int] = [int(p) if p.isdigit() else p for p in path.strip().split(".")]
    here = document.data
    for i, part in enumerate(parts[:-1]):
        if isinstance(here, dict) and isinstance(part, str):
            if here.get(part) is None:
                here[part] = {}
            here = here[part]
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
        else:
            raise UsageError(f"{origin}: {'.'.join(map(str, parts[: i + 1]))} holds nothing to set")
    last = parts[-1]
    if isinstance(here, dict):
        here[str(last)] = value
    elif isinstance(here, list) and isinstance(last, int) and last < len(here):
        here[last] = value
    else:
        raise UsageError(f"{origin}: there is no such place in the spec")
    loc = tuple(parts)
    for table in (document.keys, document.values):
        for stale in [known for known in table if known[: len(loc)] == loc]:
            del table[stale]
        table[loc] = Mark(origin, 0, 0, "")


def explain(error: SpecProblems, document: Document) -> SpecError:
    """All problems as one error, in the order of the file."""

    def place(p: Problem) -> tuple[int, int]:
        mark = document.mark(p)
        return (mark.line, mark.col) if mark else (0, 0)

    texts = []
    for p in sorted(error.problems, key=place):
        what = p.what + (f"  did you mean '{p.suggestion}'?" if p.suggestion else "")
        mark = document.mark(p) or Mark(document.origin, 1, 1, "")
        texts.append(_render(mark, ".".join(map(str, p.loc)), what))
    unique = list(dict.fromkeys(texts))
    count = f"\n\n{len(unique)} problems" if len(unique) > 1 else ""
    return SpecError("\n".join(unique) + count)


def _render(mark: Mark, path: str, what: str) -> str:
    said = f"{path}: {what}" if path else what
    if mark.line == 0:
        return f"{mark.origin}: {said}"
    head = f"{mark.origin}:{mark.line}:{mark.col}: {said}"
    gutter = f"{mark.line:>5} | "
    return f"{head}\n{gutter}{mark.text}\n{' ' * (len(gutter) - 2)}| {' ' * (mark.col - 1)}^"
