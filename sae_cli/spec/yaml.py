"""YAML in, plain data and the place of every key out; problems printed with line and caret.

YAML's traps are closed here: `1e-4` is a number, `012` and `1:30` are not octal or base 60, dates
stay text, a key written twice is an error. Nothing here knows what a sweep is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

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
_INT = re.compile(r"[-+]?[0-9][0-9_]{0,99}$|0x[0-9a-fA-F]{1,99}$")
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

    def broken(line: int, col: int, what: str) -> SpecError:
        if line >= len(lines):  # the end of the file stands after its last line
            line, col = len(lines) - 1, len(lines[-1])
        shown = Mark(origin, line + 1, col + 1, lines[line])
        return SpecError(_render(shown, "", f"not valid YAML: {what}"))

    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            raise SpecError(f"{origin}:1:1: the file is empty")
        document = Document(origin, None)
        document.data = _walk(loader, root, (), document, lines)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        raise broken(mark.line if mark else 0, mark.column if mark else 0, _syntax(e)) from e
    except ReaderError as e:
        line = text.count("\n", 0, e.position)
        col = e.position - (text.rfind("\n", 0, e.position) + 1)
        raise broken(line, col, f"it can't hold the character {e.character:#04x}") from e
    except RecursionError as e:
        raise broken(0, 0, "it is nested without end") from e
    return document


_PLAINLY = (
    (
        "mapping values are not allowed here",
        "a second `: ` in one value: indent the line as its neighbours, or quote the value",
    ),
    ("found character '\\t'", "a tab can't indent: use spaces"),
    ("but found another document", "a second document begins here: the file holds one"),
    ("could not determine a constructor", "a tag (`!...`) means nothing in a sweep"),
)


def _syntax(e: yaml.MarkedYAMLError) -> str:
    """What a YAML error says, in fewer riddles."""
    problem = str(e.problem or e.context)
    plain = next((ours for theirs, ours in _PLAINLY if problem.startswith(theirs)), None)
    if plain is not None:
        return plain
    if e.problem is None or e.context is None:
        return problem
    begun = f" begun at line {e.context_mark.line + 1}" if e.context_mark else ""
    return f"{e.context}{begun}: {problem}"


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
        if not isinstance(key, yaml.ScalarNode):
            raise ConstructorError(None, None, "a key must be a text", key.start_mark)
        if name != "<<" and name in seen:
            doc.problems.append(
                Problem(
                    (*loc, name), f"this key was already given at line {seen[name].line}", at="key"
                )
            )
        seen.setdefault(name, mark(key))
    loader.flatten_mapping(node)
    # An alias leads here again: by then each key stands once, the last one that was given.
    node.value = list({key.value: (key, value) for key, value in node.value}.values())
    out: dict[str, Any] = {}
    for key, value in node.value:
        doc.keys[(*loc, key.value)] = mark(key)
        out[key.value] = _walk(loader, value, (*loc, key.value), doc, lines)
    return out


def load(path: Path) -> Document:
    """Parse the file at `path`. Raises UsageError if it can't be read."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not UTF-8 text"
        raise UsageError(f"{path}: {reason}") from e


def override(document: Document, assignment: str) -> None:
    """Apply one `--set a.b=v`; `v` is read as YAML. Raises UsageError if it can't be applied."""
    path, eq, text = (part.strip() for part in assignment.partition("="))
    if not eq or not all(path.split(".")):
        raise UsageError(
            f"--set {assignment}: write --set section.field=value, e.g. --set train.lr=3e-4"
        )
    said = parse(text, f"--set {path}") if text else Document(path, None)
    if said.problems:
        raise explain(SpecProblems(said.problems), said)
    assign(document, tuple(path.split(".")), said.data, f"--set {assignment}")


def assign(document: Document, path: Sequence[str], value: Any, origin: str) -> None:
    """Put `value` at `path` (an index is a number of digits), and let problems there point at
    `origin`. Missing sections on the way appear. Raises UsageError if there is no such place."""
    here = document.data
    loc: Loc = ()
    for i, part in enumerate(path):
        step = _step(here, part, f"{origin}: {'.'.join(map(str, loc))}")
        loc = (*loc, step)
        if i == len(path) - 1:
            here[step] = value
        elif isinstance(here, dict) and here.get(step) is None:
            if path[i + 1].isdigit():
                raise UsageError(
                    f"{origin}: the file has no list {'.'.join(map(str, loc))} to change"
                )
            here[step] = {}
        here = here[step]
    document.problems = [p for p in document.problems if p.loc[: len(loc)] != loc]
    for table in (document.keys, document.values):
        for stale in [known for known in table if known[: len(loc)] == loc]:
            del table[stale]
        table[loc] = Mark(origin, 0, 0, "")


def _step(here: Any, part: str, where: str) -> str | int:
    """The key or index that `part` names in `here`."""
    if isinstance(here, dict):
        return part
    if not isinstance(here, list):
        raise UsageError(f"{where} is a single value, it holds no '{part}'")
    if not part.isdigit() or int(part) >= len(here):
        raise UsageError(f"{where} is a list of {len(here)}, it has no entry '{part}' (from 0)")
    return int(part)


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
    text = mark.text.replace("\t", " ")  # one column each, as the caret counts
    return f"{head}\n{gutter}{text}\n{' ' * (len(gutter) - 2)}| {' ' * (mark.col - 1)}^"
