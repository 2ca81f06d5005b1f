"""Who may import whom: only to the left of `LAYERS`, and nothing heavy before it is used."""

import ast
import sys
from pathlib import Path

import pytest

import lastlayer

SOURCE = Path(lastlayer.__file__).parent
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or not path.name.startswith("__"))

# Neighbours on one line do not import each other.
LAYERS = [
    ["_typing"],
    ["_array"],
    ["_check"],
    ["_row", "_odds", "_random", "_convex"],
    ["state"],
    ["outputs"],
    ["io", "parallel"],
    ["kernels"],
    ["transform"],
    ["loss"],
    ["linear"],
    ["measure"],
    ["calibrate"],
    ["decide"],
    ["train"],
    ["report"],
    ["domains"],
    ["conformance"],
    ["cli", "serve"],
]
LEVEL = {stage: level for level, stages in enumerate(LAYERS) for stage in stages}

# Beside the standard library and ourselves, what the body of a module may import; functions may import what they need.
AT_IMPORT = {
    "_typing": {"jaxtyping"},
    "kernels/cpu": {"numpy", "numba", "llvmlite"},
    "train": {"numpy", "sklearn"},  # estimators are scikit-learn's; each is loaded on its first use
    "cli": {"numpy", "click"},
}


def name_of(path):
    return path.relative_to(SOURCE).as_posix()


def stage_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(tree):
    """Every module that is imported anywhere in the file, in full."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def outside_functions(tree):
    """The file without the bodies of its functions: what runs on import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            node.body = []
    return tree


@pytest.fixture(params=MODULES, ids=name_of)
def module(request):
    return request.param, ast.parse(request.param.read_text())


def test_imports_go_to_the_left(module):
    path, tree = module
    here = stage_of(path)
    assert here in LEVEL, f"{here} has no place among the layers"
    for name in imported(tree):
        package, _, rest = name.partition(".")
        there = rest.partition(".")[0]
        if package == "lastlayer" and there not in (here, "__version__"):
            assert there in LEVEL and LEVEL[there] < LEVEL[here], f"{here} imports {name}"


def test_nothing_heavy_is_imported_before_it_is_used(module):
    path, tree = module
    allowed = {"lastlayer", "numpy"}
    for place, extra in AT_IMPORT.items():
        if name_of(path).startswith(place):
            allowed = {"lastlayer", *extra}
    third_party = {name.partition(".")[0] for name in imported(outside_functions(tree))} - set(sys.stdlib_module_names)
    assert third_party <= allowed


def test_array_libraries_are_told_apart_in_one_file(module):
    path, tree = module
    if name_of(path) != "_array.py":
        assert not [name for name in imported(tree) if name.startswith(("array_api_compat", "torch", "jax."))]
        assert "array_api_compat" not in path.read_text()


def test_kernels_are_named_by_the_table_alone(module):
    path, tree = module
    if name_of(path) == "kernels/__init__.py" or name_of(path).startswith("kernels/cpu/"):
        return
    names = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not [name for name in [*imported(tree), *names] if name.startswith("lastlayer.kernels.cpu")]
