"""The house of shared/DESIGN.md section 3 and its rules (section 4), read from the source with `ast`.

A check is a function from a parsed module to the sentences of what is wrong with it; each is tried on a small bad
example below, so that none can fall asleep.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import openjepa

PACKAGE = Path(openjepa.__file__).parent
TESTS = Path(__file__).parent

FLOORS: dict[int, tuple[str, ...]] = {
    8: ("__init__", "cli", "demo", "__main__"),
    7: ("comparison",),
    6: ("evaluation",),
    5: ("recipes", "load"),
    4: ("training", "visual", "interchange", "benchmark"),
    3: ("methods",),
    2: ("masking", "vision", "data", "measure", "optim"),
    1: ("config", "schedule", "storage", "journal"),
    0: ("randomness", "distributed", "errors"),
}
"""The drawing. A room imports from the floors below its own, and from itself."""
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
LANGUAGE = "errors"
"""All rooms speak it, those on its own floor too; it imports nothing."""
FRONT_DOOR = FLOORS[8]
"""`openjepa`, `openjepa` on the command line and `python -m openjepa` and the demo are one room."""

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 40
NARRATIVES = {
    ("training/loop.py", "train"),
    ("training/run.py", "pretrain"),
    ("evaluation/run.py", "evaluate"),
    ("comparison/plan.py", "plan"),
}
"""The one function of a file that may be longer: what the file is about, flat and in order."""

FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_IMPORTS |= {"torchvision", "timm", "lightly"}
MAY_PRINT = {"cli", "journal.py"}
HEAVY = ("tensorboard", "datasets", "matplotlib", "pyarrow", "transformers")
"""Not to be imported by `import openjepa`: slow, or an extra that may not be installed."""


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    path: str
    """Relative to openjepa/, with slashes."""
    tree: ast.Module
    num_lines: int

    @property
    def room(self) -> str:
        return self.path.split("/")[0].removesuffix(".py")

    @property
    def dotted(self) -> str:
        """openjepa.data.folder, and openjepa.data for its __init__.py."""
        parts = ["openjepa", *self.path.removesuffix(".py").split("/")]
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def at(self, node: ast.AST) -> str:
        return f"{self.path}:{getattr(node, 'lineno', 1)}"


def module(path: str, source: str) -> Module:
    return Module(path, ast.parse(source), len(source.splitlines()))


def modules() -> list[Module]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return [module(path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


HOUSE = modules()


# ---------------------------------------------------------------------------------------------------- the floors


def imported(here: Module) -> Iterator[tuple[ast.AST, str]]:
    """Dotted names of this package that a module imports, wherever in it; relative ones made absolute."""
    package = here.dotted.split(".")
    if not here.path.endswith("__init__.py"):
        package = package[:-1]
    for node in ast.walk(here.tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, node.module] if node.module else base)
            for alias in node.names:
                # `from openjepa import storage` names a room, `from openjepa import __version__` the front door
                is_room = origin == "openjepa" and alias.name in FLOOR
                yield node, f"openjepa.{alias.name}" if is_room else origin


def wrong_floors(here: Module) -> list[str]:
    if here.room not in FLOOR:
        return [
            f"{here.path}: the room {here.room!r} is not in the drawing. Add it to FLOORS in tests/test_house.py, "
            "on the lowest floor that is above all that it imports, and to the drawing in the design."
        ]
    wrong = []
    for node, name in imported(here):
        if name.split(".")[0] != "openjepa":
            continue
        room = [*name.split("."), "__init__"][1]
        if room == here.room or (room in FRONT_DOOR and here.room in FRONT_DOOR):
            continue
        if room not in FLOOR:
            wrong.append(f"{here.at(node)}: imports {name}, a room that is not in the drawing")
        elif FLOOR[room] >= FLOOR[here.room] and room != LANGUAGE:
            wrong.append(f"{here.at(node)}: floor {FLOOR[here.room]} imports {name} from floor {FLOOR[room]}")
    return wrong


# ------------------------------------------------------------------------------------------------------ the size


def functions(here: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(here.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def num_code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, the docstring not counted: nobody is to save on that."""
    lines = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node) is not None:
        text = node.body[0]
        lines -= text.end_lineno - text.lineno + 1
    return lines


def too_long(here: Module) -> list[str]:
    wrong = []
    if here.num_lines > MAX_FILE_LINES:
        wrong.append(f"{here.path}: {here.num_lines} lines; at most {MAX_FILE_LINES}")
    for node in functions(here):
        lines = num_code_lines(node)
        if lines > MAX_FUNCTION_LINES and (here.path, node.name) not in NARRATIVES:
            wrong.append(f"{here.at(node)}: {node.name} has {lines} lines; at most {MAX_FUNCTION_LINES}")
    return wrong


# -------------------------------------------------------------------------------------------------- what is banned


def banned(here: Module) -> list[str]:
    wrong = []
    if name := FORBIDDEN_NAMES & set(here.path.removesuffix(".py").split("/")):
        wrong.append(f"{here.path}: {name.pop()!r} says nothing about what is in it")
    plain_modules = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(here.tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    for node in ast.walk(here.tree):
        for rule, breaks in RULES.items():
            if breaks(node, here, plain_modules):
                wrong.append(f"{here.at(node)}: {rule}")
    return wrong


def is_broad_except(node: ast.AST, *_: object) -> bool:
    if not isinstance(node, ast.ExceptHandler):
        return False
    kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in kinds)


def is_broad_suppress(node: ast.AST, *_: object) -> bool:
    return (
        isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] == "suppress"
        and any(ast.unparse(kind) in ("Exception", "BaseException") for kind in node.args)
    )


def is_not_strict(node: ast.AST, *_: object) -> bool:
    return (
        isinstance(node, ast.keyword)
        and node.arg == "strict"
        and isinstance(node.value, ast.Constant)
        and node.value.value is False
    )


def is_hasattr(node: ast.AST, here: Module, plain_modules: set[str]) -> bool:
    """`hasattr(os, ...)` asks what the platform offers; of our own objects we know what they have."""
    if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "hasattr"):
        return False
    root = ast.unparse(node.args[0]).split(".")[0]
    return root not in plain_modules or root == "openjepa"


def is_print(node: ast.AST, here: Module, _: set[str]) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and here.path not in MAY_PRINT


def is_unsafe_call(node: ast.AST, *_: object) -> bool:
    """torch.load is a reader of tensors and plain containers when it says so (decision 006)."""
    if not isinstance(node, ast.Call):
        return False
    is_restricted = "weights_only=True" in map(ast.unparse, node.keywords)
    name = ast.unparse(node.func)
    return name in ("eval", "exec", "__import__") or (name == "torch.load" and not is_restricted)


def is_unsafe_import(node: ast.AST, *_: object) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] in FORBIDDEN_IMPORTS for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        names = {alias.name for alias in node.names}
        origin = (node.module or "").split(".")[0]
        is_an_error = node.module == "pickle" and names == {"UnpicklingError"}  # what torch's restricted reader raises
        return (origin in FORBIDDEN_IMPORTS and not is_an_error) or (origin == "torch" and "load" in names)
    return False


def is_pickled_array(node: ast.AST, *_: object) -> bool:
    return isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False"


RULES: dict[str, Callable[[ast.AST, Module, set[str]], bool]] = {
    "name the exceptions": is_broad_except,
    "name the exceptions to suppress": is_broad_suppress,
    "strict=False hides what does not fit": is_not_strict,
    "hasattr on an object of ours": is_hasattr,
    "print only in cli and journal": is_print,
    "nothing read from a file or a string is executed": is_unsafe_call,
    "this module is not to be imported": is_unsafe_import,
    "a pickled array executes code": is_pickled_array,
}


# --------------------------------------------------------------------------------------------------- the docstrings

Documented = dict[str, dict[str, bool]]


def classes(house: list[Module]) -> tuple[dict[str, list[str]], Documented]:
    """For each class of the package by its name: its bases' names, and its methods with whether they say what they
    do. Two classes of one name count as one."""
    bases: dict[str, list[str]] = {}
    methods: Documented = {}
    for here in house:
        for node in ast.walk(here.tree):
            if isinstance(node, ast.ClassDef):
                bases.setdefault(node.name, []).extend(
                    ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases
                )
                for part in node.body:
                    if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
                        has = ast.get_docstring(part) is not None
                        methods.setdefault(node.name, {}).setdefault(part.name, has)
    return bases, methods


def is_said_above(kind: str, method: str, bases: dict[str, list[str]], methods: Documented) -> bool:
    """True when an ancestor of the class, or a protocol it may fulfil, documents the method."""
    protocols = [name for name, parents in bases.items() if "Protocol" in parents]
    waiting, seen = [*bases.get(kind, ()), *protocols], set()
    while waiting:
        name = waiting.pop()
        if methods.get(name, {}).get(method):
            return True
        if name not in seen:
            seen.add(name)
            waiting += bases.get(name, ())
    return False


def undocumented(here: Module, bases: dict[str, list[str]], methods: Documented) -> list[str]:
    if not here.tree.body:  # an empty __init__.py
        return []
    wrong = []
    if ast.get_docstring(here.tree) is None:
        wrong.append(f"{here.path}: the module has no docstring")

    def visit(parent: ast.Module | ast.ClassDef, prefix: str) -> None:
        for node in parent.body:
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                continue
            if node.name.startswith("_"):
                continue
            is_override = isinstance(parent, ast.ClassDef) and is_said_above(parent.name, node.name, bases, methods)
            if ast.get_docstring(node) is None and not is_override:
                wrong.append(f"{here.at(node)}: {prefix}{node.name} has no docstring")
            if isinstance(node, ast.ClassDef):
                visit(node, f"{node.name}.")

    visit(here.tree, "")
    return wrong


# ------------------------------------------------------------------------------------------------ no work at import


def work_at_import(here: Module) -> list[str]:
    """Statements of a module that are neither definitions nor imports, nor what chooses between those."""
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.If, ast.Try)
    allowed += (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assert, ast.Pass)
    wrong = []
    for node in here.tree.body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if here.path == "__main__.py" or is_text or isinstance(node, allowed):
            continue
        wrong.append(f"{here.at(node)}: work at import: {ast.unparse(node).splitlines()[0]}")
    return wrong


# ------------------------------------------------------------------------------------------------------- the checks


def listed(wrong: list[str]) -> str:
    return "\n  ".join(["", *wrong])


@pytest.mark.parametrize("check", [wrong_floors, too_long, banned, work_at_import], ids=lambda check: check.__name__)
def test_house(check: Callable[[Module], list[str]]) -> None:
    wrong = [sentence for here in HOUSE for sentence in check(here)]
    assert not wrong, listed(wrong)


def test_docstrings() -> None:
    said = classes(HOUSE)
    wrong = [sentence for here in HOUSE for sentence in undocumented(here, *said)]
    assert not wrong, listed(wrong)


def test_the_drawing_has_only_rooms_that_are_there() -> None:
    missing = sorted(set(FLOOR) - {here.room for here in HOUSE})
    assert not missing, f"not in {PACKAGE}: {missing}. Build them, or take them out of FLOORS and of the drawing."


def test_narratives_are_long_and_alone_in_their_file() -> None:
    long = {
        (here.path, node.name)
        for here in HOUSE
        for node in functions(here)
        if num_code_lines(node) > MAX_FUNCTION_LINES
    }
    short = sorted(NARRATIVES - long)
    assert not short, f"{short} have become short (or are gone): take them out of NARRATIVES"
    paths = [path for path, _ in NARRATIVES]
    assert len(paths) == len(set(paths)), "one narrative a file"


def test_importing_openjepa_is_light() -> None:
    code = f"import openjepa, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]", "import these where they are used"


def test_tests_mirror_the_house() -> None:
    wrong = misplaced(TESTS)
    assert not wrong, listed(wrong)


def misplaced(tests: Path) -> list[str]:
    directories = [path.name for path in tests.iterdir() if path.is_dir() and path.name != "__pycache__"]
    return [f"tests/{name}/ is no room of openjepa" for name in sorted(directories) if name not in FLOOR]


# ---------------------------------------------------------------------------------------- and each check can fail


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("data/x.py", "from openjepa.training.loop import train", "floor 2 imports openjepa.training"),
        ("data/x.py", "import openjepa.methods.ijepa as m", "floor 2 imports openjepa.methods.ijepa from floor 3"),
        ("data/x.py", "def f():\n    from openjepa import masking", "x.py:2: floor 2 imports openjepa.masking from"),
        ("data/x.py", "if TYPE_CHECKING:\n    from openjepa.cli import main", "floor 2 imports openjepa.cli from"),
        ("data/x.py", "from ..training import loop", "floor 2 imports openjepa.training from floor 4"),
        ("data/scenes/x.py", "from ...methods import base", "floor 2 imports openjepa.methods from floor 3"),
        ("data/__init__.py", "from ..methods import base", "floor 2 imports openjepa.methods from floor 3"),
        ("distributed.py", "from openjepa import randomness", "floor 0 imports openjepa.randomness from floor 0"),
        ("errors.py", "from openjepa.randomness import key", "floor 0 imports openjepa.randomness from floor 0"),
        ("storage.py", "from openjepa import config", "floor 1 imports openjepa.config from floor 1"),
        ("storage.py", "from openjepa import __version__", "floor 1 imports openjepa from floor 8"),
        ("load.py", "import openjepa", "floor 5 imports openjepa from floor 8"),
        ("load.py", "import openjepa.attic", "imports openjepa.attic, a room that is not in the drawing"),
        ("attic.py", "", "Add it to FLOORS in tests/test_house.py"),
        ("attic/x.py", "", "Add it to FLOORS in tests/test_house.py"),
    ],
)  # fmt: skip
def test_wrong_floors_are_seen(path: str, source: str, expected: str) -> None:
    (wrong,) = wrong_floors(module(path, source))
    assert expected in wrong


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("data/x.py", "import torch, os.path\nfrom openjepa import errors, distributed"),
        ("distributed.py", "from openjepa.errors import ConfigError"),
        ("data/x.py", "from openjepa.data.views import Views\nfrom . import folder\nfrom .scenes import world"),
        ("data/__init__.py", "from . import folder\nfrom .folder import Folder\nfrom .. import errors"),
        ("data/scenes/x.py", "from . import world\nfrom ..views import Views\nfrom ...errors import DataError"),
        ("__main__.py", "from openjepa.cli import main"),
        ("cli.py", "from openjepa import __version__, recipes"),
        ("__init__.py", "from openjepa.load import load_encoder\nfrom . import recipes"),
    ],
)
def test_right_floors_are_left_alone(path: str, source: str) -> None:
    assert wrong_floors(module(path, source)) == []


def test_long_files_and_functions_are_seen() -> None:
    assert too_long(module("data/x.py", "x = 1\n" * MAX_FILE_LINES)) == []
    assert too_long(module("data/x.py", "x = 1\n" * (MAX_FILE_LINES + 1))) == ["data/x.py: 301 lines; at most 300"]
    body = "    x = 1\n" * MAX_FUNCTION_LINES
    assert too_long(module("data/x.py", f"def f():\n{body}")) == ["data/x.py:1: f has 41 lines; at most 40"]
    assert too_long(module("data/x.py", f'def f():\n    """A\n    B"""\n{body[10:]}')) == []
    method = "class A:\n    async def f():\n" + "        x = 1\n" * MAX_FUNCTION_LINES
    assert too_long(module("data/x.py", method)) == ["data/x.py:2: f has 41 lines; at most 40"]
    assert too_long(module("training/loop.py", f"def train():\n{body}")) == []
    assert len(too_long(module("training/loop.py", f"def train2():\n{body}"))) == 1


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("try: ...\nexcept: ...", "name the exceptions"),
        ("try: ...\nexcept Exception: ...", "name the exceptions"),
        ("try: ...\nexcept BaseException as e: ...", "name the exceptions"),
        ("try: ...\nexcept (OSError, Exception): ...", "name the exceptions"),
        ("with contextlib.suppress(Exception): ...", "name the exceptions to suppress"),
        ("m.load_state_dict(x, strict=False)", "strict=False"),
        ("hasattr(self, 'x')", "hasattr"),
        ("import os\nhasattr(config.os, 'x')", "hasattr"),
        ("from openjepa import storage\nhasattr(storage, 'x')", "hasattr"),
        ("import openjepa\nhasattr(openjepa.storage, 'x')", "hasattr"),
        ("print('x')", "print"),
        ("def f():\n    print('x')", "print"),
        ("torch.load('x')", "executed"),
        ("torch.load('x', weights_only=False)", "executed"),
        ("eval('x')", "executed"),
        ("exec('x')", "executed"),
        ("import pickle", "not to be imported"),
        ("import os, dill.source", "not to be imported"),
        ("from pickle import loads", "not to be imported"),
        ("from torch import load", "not to be imported"),
        ("def f():\n    import timm", "not to be imported"),
        ("np.load('x', allow_pickle=True)", "pickled array"),
    ],
)
def test_banned_things_are_seen(source: str, rule: str) -> None:
    (wrong,) = banned(module("data/x.py", source))
    assert rule in wrong


@pytest.mark.parametrize("path", ["utils.py", "data/helpers.py", "common/x.py", "data/misc/x.py"])
def test_empty_names_are_seen(path: str) -> None:
    (wrong,) = banned(module(path, ""))
    assert "says nothing" in wrong


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("data/x.py", "try: ...\nexcept (OSError, ValueError): ..."),
        ("data/x.py", "import os, torch\nhasattr(os, 'x')\nhasattr(torch.backends, 'mps')"),
        (
            "data/x.py",
            "zip(a, b, strict=True)\nmodel.eval()\nconsole.print('x')\nnp.load('x', allow_pickle=False)",
        ),
        ("data/x.py", "from pickle import UnpicklingError\ntorch.load('x', weights_only=True)"),
        ("journal.py", "print('x')"),
    ],
)
def test_good_code_is_left_alone(path: str, source: str) -> None:
    assert banned(module(path, source)) == []


def test_missing_docstrings_are_seen() -> None:
    source = """
class Base(ABC):
    '''A base.'''
    @abstractmethod
    def said(self): '''What it is for.'''
    @abstractmethod
    def unsaid(self): ...
class Child(Base):
    '''A child.'''
    def said(self): ...
    def unsaid(self): ...
    def own(self): ...
    def _private(self): ...
    def __init__(self): ...
class Free:
    '''Fulfils a protocol.'''
    def promised(self): ...
    def said(self): ...
class Bare: ...
class _Hidden:
    def f(self): ...
def function():
    def inner(): ...
def _hidden(): ...
"""
    protocol = "'''P.'''\nclass Promise(Protocol):\n    '''P.'''\n    def promised(self): '''P.'''"
    here = module("data/x.py", source)
    wrong = undocumented(here, *classes([here, module("data/y.py", protocol)]))
    names = [sentence.split(": ")[1].removesuffix(" has no docstring") for sentence in wrong]
    expected = ["the module", "Base.unsaid", "Child.unsaid", "Child.own", "Free.said", "Bare", "function"]
    assert names == expected
    empty = module("data/__init__.py", "")
    assert undocumented(empty, *classes([empty])) == []


@pytest.mark.parametrize(
    "source",
    ["torch.manual_seed(0)", "for x in y: ...", "while True: ...", "with open('x') as f: ...", "del x"],
)
def test_work_at_import_is_seen(source: str) -> None:
    (wrong,) = work_at_import(module("data/x.py", f'"""A."""\nimport torch\n\nX = 3\n"""B."""\n{source}'))
    assert f"x.py:6: work at import: {source.split(':')[0]}" in wrong
    assert work_at_import(module("__main__.py", "from openjepa.cli import main\nmain()")) == []


def test_misplaced_tests_are_seen(tmp_path: Path) -> None:
    for name in ("data", "attic", "__pycache__"):
        (tmp_path / name).mkdir()
    (tmp_path / "test_x.py").touch()
    assert misplaced(tmp_path) == ["tests/attic/ is no room of openjepa"]
