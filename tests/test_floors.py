"""The house stands: imports point downward only, and looking never loads torch.

The rules are those of the design: `spec` knows nobody, `store`, `lm` and `sae` do not know each
other, only a stage joins them, and everything that answers a question does so without torch.
"""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sae_cli

ROOT = Path(sae_cli.__file__).parent
GROUND = {"errors", "spec"}
MAY_IMPORT = {
    "errors": set(),
    "spec": {"errors"},
    "store": GROUND,
    "lm": GROUND,
    "sae": GROUND,
    "studies": GROUND | {"store", "lm", "sae"},
    "stages": GROUND | {"store", "lm", "sae", "studies"},
    "plan": GROUND | {"store"},
    "report": GROUND | {"store", "plan"},
    "run": GROUND | {"store", "plan", "stages", "studies"},
    "cli": GROUND | {"store", "plan", "report", "run", "studies"},
}
"""What a floor may import beside itself. `run` and `cli` import the heavy parts of `stages` and
`studies` by name only, or inside functions."""
EXCEPTIONS = {
    ("sae_cli/plan/pin.py", "sae_cli.lm.tiny"),
    ("sae_cli/plan/pin.py", "sae_cli.lm.tiny.grammar"),
    ("sae_cli/plan/pin.py", "sae_cli.lm.hub"),
    ("sae_cli/plan/pin.py", "sae_cli.lm.refusal"),
}
"""Torch-free parts of `lm`, imported where they are needed, so that a plan says what a run says."""
HEAVY = ("torch", "transformers", "datasets", "zarr", "wandb", "sae_lens", "pyarrow", "tokenizers")
LIGHT = ("errors", "spec", "plan", "report", "run", "cli")
LIGHT_FILES = (
    *(f"store/{name}.py" for name in ("key", "layout", "atomic", "digests", "sae_names")),
    *(f"store/formats/{name}.py" for name in ("__init__", "files", "found", "heads", "said")),
    *(f"store/records/{name}.py" for name in ("ledger", "claim", "holder", "status", "space")),
    *(f"lm/{name}.py" for name in ("hub", "refusal", "names")),
    *(f"lm/tiny/{name}.py" for name in ("__init__", "grammar")),
    "stages/__init__.py",
    "stages/task.py",
)


def files(floor):
    one = ROOT / f"{floor}.py"
    return [one] if one.is_file() else sorted((ROOT / floor).rglob("*.py"))


def name_of(file):
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(p for p in parts if p != "__init__")


def imports(file, *, outermost=False):
    """The modules that a file imports, wherever in it; or only those it loads when it is loaded."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    hidden = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or _for_types_only(node)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if outermost and node in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(file, node)
            inside = [f"{module}.{alias.name}" for alias in node.names]
            yield from (module, *filter(_is_module, inside))


def _absolute(file, node):
    if node.level == 0:
        return node.module
    above = file.relative_to(ROOT.parent).parts[: -node.level]
    return ".".join([*above, *([node.module] if node.module else [])])


def _for_types_only(node):
    return isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"


def _is_module(dotted):
    path = ROOT.parent.joinpath(*dotted.split("."))
    return dotted.startswith("sae_cli") and (path.is_dir() or path.with_suffix(".py").is_file())


def test_every_folder_of_the_package_is_a_floor_of_the_house():
    found = {p.stem for p in ROOT.iterdir() if p.suffix == ".py" or list(p.glob("*.py"))}
    assert found - {"__init__", "__main__"} == set(MAY_IMPORT)


@pytest.mark.parametrize("floor", MAY_IMPORT)
def test_imports_point_downward_only(floor):
    allowed = MAY_IMPORT[floor] | {floor}
    assert files(floor)
    wrong = [
        (str(file.relative_to(ROOT.parent)), module)
        for file in files(floor)
        for module in imports(file)
        if module.startswith("sae_cli.") and module.split(".")[1] not in allowed
    ]
    assert set(wrong) - EXCEPTIONS == set()


def test_no_file_imports_itself_by_way_of_others():
    every = {name_of(file): file for floor in MAY_IMPORT for file in files(floor)}
    graph = {
        name: {m for m in imports(file) if m in every} - {name} for name, file in every.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_exceptions_are_all_in_use_and_wait_until_they_are_needed():
    file = ROOT / "plan" / "pin.py"
    assert {module for _, module in EXCEPTIONS} <= set(imports(file))
    assert not any(m.startswith("sae_cli.lm") for m in imports(file, outermost=True))


@pytest.mark.parametrize(
    "file",
    [*(f for floor in LIGHT for f in files(floor)), *(ROOT / name for name in LIGHT_FILES)],
    ids=lambda f: name_of(f),
)
def test_no_light_module_imports_a_heavy_library_anywhere(file):
    assert {m.split(".")[0] for m in imports(file)} & set(HEAVY) == set()


def run(code, *arguments, cwd):
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return ended


def test_all_light_modules_together_load_no_heavy_library(tmp_path):
    light = [*(f for floor in LIGHT for f in files(floor)), *(ROOT / name for name in LIGHT_FILES)]
    code = (
        "import importlib, sys\n"
        f"for name in {[name_of(f) for f in light]!r}:\n    importlib.import_module(name)\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    ended = run(code, cwd=tmp_path)
    assert ended.stdout.strip() == "[]"


LOOK = (
    "import cProfile, pstats, sys\n"
    "profile = cProfile.Profile()\nprofile.enable()\n"
    "from sae_cli.cli.app import _run\ncode = _run(sys.argv[1:])\nprofile.disable()\n"
    f"loaded = [m for m in {HEAVY!r} if m in sys.modules]\n"
    "assert not loaded, loaded\n"
    "print(pstats.Stats(profile).total_calls, file=sys.stderr)\nsys.exit(code)"
)


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "run --help",
        "bench --help",
        "import --help",
        "validate tiny",
        "plan tiny",
        "plan qwen3-4b",
        "run tiny --dry-run",
        "status tiny",
        "ls",
        "schema",
    ],
)
def test_a_look_loads_no_heavy_library(arguments, tmp_path, clean_home):
    assert run(LOOK, *arguments.split(), cwd=tmp_path).stdout


SUITE = """\
name: suite
model: qwen3-4b
data: {tokens: 50_000_000, heldout_tokens: 500_000, context: 1024}
train: {num_tokens: 100_000_000}
matrix:
  layer: LAYERS
  site: [resid_pre, resid_mid, resid_post, attn_out, attn_z, mlp_out]
  width: [16384, 65536]
  exclude: [{layer: 33, site: attn_z}, {layer: 33, site: mlp_out}, {layer: 33, site: resid_mid}]
"""


def test_a_plan_of_two_hundred_sites_is_short(tmp_path, clean_home):
    """201 sites of two widths, 402 SAEs, with totals."""
    (tmp_path / "suite.yaml").write_text(SUITE.replace("LAYERS", str(list(range(34)))))
    ended = run(LOOK, "plan", "suite.yaml", cwd=tmp_path)
    assert "402 SAEs to train in 201 passes" in ended.stdout
    assert ended.stdout.splitlines()[-2].startswith("device hours: ")
    assert int(ended.stderr.split()[-1]) < 2_200_000


@pytest.mark.parametrize("arguments", ["--help", "plan qwen3-4b", "status tiny"])
def test_a_look_is_short(arguments, tmp_path, clean_home):
    """Two million calls of Python are well under a second, on whatever machine counts them."""
    said = run(LOOK, *arguments.split(), cwd=tmp_path).stderr
    assert int(said.split()[-1]) < 2_000_000
