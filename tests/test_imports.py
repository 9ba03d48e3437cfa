"""Imports within the package run one way, down the list of folders."""

import ast

import paths

PACKAGE = paths.ROOT / "keras_mimetic"
# A file imports from its own folder and those before it.
FOLDERS = ("_numerics", "_graph", "initializers", "layers", "_patterns", "_structures", "calls")
# Files of the top folder that every other may use.
SHARED = {"_checks"}


def modules():
    """Each module of the package by its dotted name, with the names of those that it imports."""
    trees = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        trees[name] = ast.parse(path.read_text())
    return {
        name: {
            target
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keras_mimetic")
            for alias in node.names
            for target in [f"{node.module}.{alias.name}", node.module]
            if target in trees
        }
        for name, tree in trees.items()
    }


def position(name):
    parts = name.split(".")
    if parts[-1] in SHARED and len(parts) == 2:
        return -1
    return FOLDERS.index(parts[1] if len(parts) > 1 and parts[1] in FOLDERS else "calls")


def test_imports_run_one_way():
    wrong = [
        f"{name} imports {other}"
        for name, others in modules().items()
        for other in others
        if position(other) > position(name)
    ]
    assert not wrong


def test_imports_have_no_circles():
    imports = modules()
    # A package is its __init__, which imports from the files within.
    open_now, done = [], set()

    def visit(name):
        assert name not in open_now, " -> ".join([*open_now, name])
        if name in done:
            return
        open_now.append(name)
        for other in imports[name]:
            if not f"{name}.".startswith(f"{other}."):
                visit(other)
        open_now.pop()
        done.add(name)

    for name in imports:
        visit(name)


def test_one_file_touches_private_records_of_keras():
    """Layers may use those that they inherit."""
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        # `_numerics` does not import Keras, and has named tuples.
        if path.name == "keras_internals.py" or path.parent.name == "_numerics":
            continue
        nodes = list(ast.walk(ast.parse(path.read_text())))
        attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
        is_own = {node.attr for node in attributes if ast.unparse(node.value) in ("self", "cls")}
        is_own |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        wrong += [
            f"{path.name}:{node.lineno} {ast.unparse(node)}"
            for node in attributes
            if node.attr == "src"
            or (
                (node.attr.startswith("_") and not node.attr.startswith("__"))
                and node.attr not in is_own
            )
        ]
    assert not wrong


def test_mathematics_knows_no_keras():
    for path in (PACKAGE / "_numerics").glob("*.py"):
        names = {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert not names & {"keras", "tensorflow", "jax", "torch"}, path
