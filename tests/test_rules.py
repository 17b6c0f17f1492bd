"""The rules of the house, read from the source: who imports whom, and how long is long."""

import ast
import collections
import functools
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.each_file import ROOT, each_file

LIBRARY = sorted((ROOT / "resnet").rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# What each room, a folder or file of resnet/, may import of the others; imports go one way.
LEAVES = {"durations", "errors", "fields", "files", "paths", "processors", "recipes"}
LEAVES |= {"kernels", "models", "data", "weights"}
ENGINE = LEAVES | {"config", "runs", "runtime", "training"}
ROOMS = {
    "__init__": {"run", "interop"},
    "errors": set(),
    "durations": {"errors"},
    "fields": {"errors"},
    "files": {"errors"},
    "paths": {"errors"},
    "processors": set(),
    "recipes": {"errors", "fields", "files"},
    "kernels": {"errors", "files"},
    "models": {"errors", "fields", "kernels", "paths"},
    "data": {"errors", "fields", "files", "kernels", "processors"},
    "weights": {"errors", "files", "models", "paths"},
    "config": ENGINE,
    "runtime": ENGINE,
    "runs": ENGINE,
    "training": ENGINE,
    "net": ENGINE,
    "run": ENGINE | {"net"},
    "planning": ENGINE,
    "analysis": ENGINE | {"run"},
    "studies": ENGINE | {"run", "analysis"},
    "interop": ENGINE | {"run", "net"},
    "cli": ENGINE | {"run", "planning", "analysis", "studies", "interop"},
    "__main__": {"cli"},
}
# The places that may import a library.
OWNERS = {
    # The second is what ours is measured against: nets of stock Flax.
    "flax": ("resnet/models/", "scripts/peers/flax_nets.py"),
    "orbax": ("resnet/runs/checkpoints/",),
}
# The place that may ask which backend is in use; what depends on it elsewhere is a function of kernels/.
ASK_FOR_BACKEND = ("resnet/runtime/",)
# A folder holds no more modules than these; two have one for each question, and one for each command.
MODULES_OF_A_ROOM = 12
QUESTIONS, COMMANDS = ROOT / "resnet/analysis", ROOT / "resnet/cli/commands"
# Every question defines the first two, every command the others.
NAMES_OF_ALL = {QUESTIONS: {"Options", "ask"}, COMMANDS: {"define", "main"}}
# The only code of the library that reads arguments and prints.
COMMAND_LINE = ROOT / "resnet/cli"
# The leaf configs are composed by resnet/config.py, and so must not import it.
COMPOSED_BY = "resnet/config.py"


@functools.cache
def parsed(path: Path) -> ast.Module:
    """The source of a file as a tree, which no test may change."""
    return ast.parse(path.read_text())


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def imports(path: Path, for_types: bool = False) -> list[str]:
    """Modules that run when `path` does, wherever in the file; those under TYPE_CHECKING if `for_types`."""
    return list(_imports(path, for_types))


def _imports(path: Path, for_types: bool) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not for_types:
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{relative(path)}: a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str | None:
    """`models` of `resnet.models.grammar`."""
    parts = module.split(".")
    return parts[1] if parts[0] == "resnet" and len(parts) > 1 else None


def imported_files(path: Path, for_types: bool = False) -> set[Path]:
    """Files of the library that `path` imports."""
    modules = [module for module in imports(path, for_types) if room(module)]
    return {ROOT / (module.replace(".", "/") + ".py") for module in modules} & set(LIBRARY)


@each_file(LIBRARY)
def test_imports_go_one_way(path):
    here = path.relative_to(ROOT / "resnet").parts[0].removesuffix(".py")
    used = {name for module in imports(path) if (name := room(module)) in ROOMS}
    assert used <= ROOMS[here] | {here}, f"{relative(path)} imports {used - ROOMS[here]}"
    assert "scripts" not in {module.split(".")[0] for module in imports(path)}


def test_no_import_circle():
    """TopologicalSorter raises CycleError, which lists the files of the first circle that it meets."""
    graph = {relative(path): set(map(relative, imported_files(path, for_types=True))) for path in LIBRARY}
    assert len([*graphlib.TopologicalSorter(graph).static_order()]) == len(LIBRARY)


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in LIBRARY} - {QUESTIONS, COMMANDS}), ids=relative
)
def test_a_room_is_seen_at_a_glance(folder):
    modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MODULES_OF_A_ROOM, "merge what is always read together"


@each_file(LIBRARY + SCRIPTS)
def test_flax_and_orbax_have_one_owner(path):
    for library, owners in OWNERS.items():
        uses = any(module.split(".")[0] == library for module in imports(path))
        assert not uses or relative(path).startswith(owners), f"only {owners} import {library}"


@each_file(LIBRARY + SCRIPTS)
def test_no_json_has_nan(path):
    calls = (node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call))
    for call in calls:
        if ast.unparse(call.func) in ("json.dump", "json.dumps"):
            assert "allow_nan=False" in ast.unparse(call), f"line {call.lineno}: use records.to_json"


# Arguments of a call that reads or writes text, before the encoding.
BEFORE_ENCODING = {"read_text": 0, "write_text": 1}


@each_file(LIBRARY + SCRIPTS)
def test_text_has_an_encoding(path):
    """That of the locale may be another where the text is read again."""
    calls = (node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call))
    for call in (call for call in calls if isinstance(call.func, ast.Attribute)):
        text, before = ast.unparse(call), BEFORE_ENCODING.get(call.func.attr)
        opened = call.func.attr == "open" and re.search(r"\.open\((\)|newline|'[arwx]\+?')", text)
        if opened or (before is not None and len(call.args) <= before):
            assert "encoding=" in text, f"line {call.lineno}: {text}"


@each_file(LIBRARY + SCRIPTS)
def test_pictures_are_saved_in_one_place(path):
    """Which draws names letter by letter. The picture of the rooms holds no name that a user gave."""
    owners = ("resnet/files.py", "scripts/architecture.py")
    assert ".savefig(" not in path.read_text() or relative(path) in owners, "use files.save_png"


@each_file(LIBRARY)
def test_the_backend_is_asked_for_in_few_places(path):
    text = path.read_text()
    asks = any(question in text for question in ("default_backend", "get_backend", "].platform"))
    assert not asks or relative(path).startswith(ASK_FOR_BACKEND), f"only {ASK_FOR_BACKEND} ask for it"


@each_file([p for p in LIBRARY if COMMAND_LINE not in p.parents])
def test_only_the_command_line_reads_arguments_and_prints(path):
    for node in ast.walk(parsed(path)):
        if not isinstance(node, ast.Attribute | ast.Call):
            continue
        text = ast.unparse(node)
        assert text != "sys.argv" and not text.startswith("print("), f"line {node.lineno}: {text}"
    assert not {"argparse", "absl.flags", "absl.app"} & set(imports(path))


@each_file(LIBRARY + SCRIPTS + TESTS)
def test_one_page_per_concept(path):
    text = path.read_text()
    assert path.name != "utils.py"
    assert len(text.splitlines()) <= 300, "split it by theme"
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, functions) and path not in TESTS:
            assert (node.end_lineno or 0) - node.lineno < 50, f"{node.name}: split it by theme"


@each_file(LIBRARY + SCRIPTS)
def test_every_module_says_what_it_is(path):
    text = path.read_text()
    assert not text or ast.get_docstring(ast.parse(text)), "a docstring on the first line"


def public_names(path: Path) -> Iterator[str]:
    """Functions, classes and type aliases that a module of the library defines for others."""
    for node in parsed(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        else:
            targets = node.targets if isinstance(node, ast.Assign) else []
            # An alias is written like a class; one letter is a type variable.
            names = [
                t.id for t in targets if isinstance(t, ast.Name) and t.id[0].isupper() and t.id[1:2].islower()
            ]
        yield from (name for name in names if not name.startswith("_"))


def test_no_public_name_is_defined_twice():
    """A name says what it is wherever it is imported; two functions of one purpose are one."""
    where = collections.defaultdict(list)
    for path in LIBRARY:
        for name in public_names(path):
            if name not in NAMES_OF_ALL.get(path.parent, ()):
                where[name].append(relative(path))
    twice = {name: files for name, files in where.items() if len(files) > 1}
    assert not twice, f"rename one of each: {twice}"


def test_the_shortcut_of_the_readme_has_a_name_of_its_own():
    """Whoever pastes its lines breaks no rule."""
    (name,) = re.findall(r"^def (\w+)\(at, x, branch\)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert not [relative(path) for path in LIBRARY if name in public_names(path)]


# Lists of choices whose every entry must keep the promises of all: an entry is tested the day it is added.
CHOICES_IN_TRAINING = ("PRECONDITIONERS", "SCHEDULES", "LOSSES", "OPERATIONS")


@pytest.mark.thorough
@pytest.mark.parametrize("name", CHOICES_IN_TRAINING)
def test_every_entry_of_a_list_goes_through_the_same_tests(name):
    """Some test is parametrised by the list itself."""
    calls = [
        node for path in TESTS for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]
    parametrised = [node.args[1] for node in calls if ast.unparse(node.func) == "pytest.mark.parametrize"]
    assert any(isinstance(values, ast.Name) and values.id == name for values in parametrised)
