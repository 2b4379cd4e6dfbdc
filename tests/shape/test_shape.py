"""The shape of the code: what style asks for and neither ruff nor mypy can see.

Each test collects every place that breaks the rule, so one run shows all of them. A reason for an exception
stands in the code, beside it: `# size: why` in the first 40 lines of a long module or at the head of a long
function.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from appliance.core.errors import ERRORS
from appliance.core.limits import Limits
from tests.shape.source import ROOT, called, files, nodes, place, python_files, text, tree

CODE = ("appliance", "tests", "tools")
MODULE_LINES = 350
FUNCTION_LINES = 60  # twice what style aims at: beyond it a reason is due
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}

# Where any failure may be caught: the last line of a program, of a request, of a supervised job; and around
# Automerge, whose panics are BaseExceptions. pyproject.toml names the same places for ruff.
CATCH_ALL = {
    "appliance/cli/main.py",
    "appliance/daemon/control/server.py",
    "appliance/daemon/control/reply.py",
    "appliance/daemon/main.py",
    "appliance/daemon/supervisor.py",
    "appliance/replica/document.py",
    "appliance/replica/request.py",
}

# Registries are named by their clients' settings, paths by the machine: neither belongs in a file.
# (Written so that this file passes its own test.)
REGISTRIES = [
    "pypi." + "org",
    "python" + "hosted.org",
    "npmjs." + "org",
    "proxy.golang." + "org",
    "crates." + "io",
    "deb.debian." + "org",
    "maven." + "org",
]
MACHINE_PATHS = re.compile(r"(?<![\w.-])/(work|opt/wheels|tmp/x0t|root/[.])\b")


def none_of(found: Iterable[str]) -> None:
    """Fails with one line for each place."""
    __tracebackhide__ = True
    listed = sorted(found)
    assert not listed, "\n" + "\n".join(listed)


def has_reason(lines: list[str]) -> bool:
    return any(re.search(r"# size: \w", line) for line in lines)


def test_no_module_is_long_without_a_reason_beside_it() -> None:
    long = [
        f"{place(path)} has {count} lines"
        for path in python_files(*CODE)
        if (count := text(path).count("\n")) > MODULE_LINES and not has_reason(text(path).splitlines()[:40])
    ]
    none_of(long)


def test_no_function_is_long_without_a_reason_beside_it() -> None:
    long = []
    for path, node in nodes("appliance"):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            body = node.body[1:] if ast.get_docstring(node) else node.body
            count = node.end_lineno - body[0].lineno + 1 if body else 0
            if count > FUNCTION_LINES and not has_reason(text(path).splitlines()[node.lineno - 1 : body[0].lineno]):
                long.append(f"{place(path, node)} {node.name} has {count} lines")
    none_of(long)


def test_every_package_of_the_program_is_a_package() -> None:
    folders = {path.parent for path in python_files("appliance")}
    none_of(place(folder) for folder in folders if not (folder / "__init__.py").is_file())


def test_every_module_says_what_it_is_for() -> None:
    """The name of a test module says it already; an empty module has nothing to say."""
    none_of(
        place(path)
        for path in python_files(*CODE)
        if not path.name.startswith("test_") and text(path).strip() and not ast.get_docstring(tree(path))
    )


def test_no_module_has_a_vague_name() -> None:
    none_of(place(path) for path in python_files(*CODE) if VAGUE_NAMES & {path.stem, path.parent.name})


def test_the_program_never_prints() -> None:
    none_of(place(path, node) for path, node in nodes("appliance") if called(node) in {"print", "pprint"})


def test_every_task_belongs_to_a_group() -> None:
    """TaskGroup.create_task is the way; the loop's and asyncio's own leave a task to nobody."""
    bare = re.compile(r"(^|\.)ensure_future$|^create_task$|(asyncio|loop|_loop\(\))\.create_task$")
    none_of(place(path, node) for path, node in nodes("appliance") if bare.search(called(node)))


def test_only_the_named_places_catch_everything() -> None:
    """A handler that raises again only looks; it catches nothing."""
    blind = []
    for path, node in nodes("appliance"):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "BaseException"
            raises = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
            if re.search(r"\b(Base)?Exception\b", caught) and not raises:
                blind.append(place(path, node))
    none_of(where for where in blind if where.rpartition(":")[0] not in CATCH_ALL)


def error_keys_used() -> dict[str, str]:
    """Literal keys of `error("...")` calls: key to place."""
    return {
        node.args[0].value: place(path, node)
        for path, node in nodes("appliance")
        if isinstance(node, ast.Call) and called(node).rpartition(".")[2] == "error" and len(node.args) == 1
        if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
        if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", node.args[0].value)
    }


def test_every_error_key_that_is_raised_is_in_the_table() -> None:
    none_of(f"{where} {key}" for key, where in error_keys_used().items() if key not in ERRORS)


def test_every_error_key_of_the_table_is_used() -> None:
    """Also by name in a table of the code, so any string that equals the key counts."""
    table = ROOT / "appliance/core/errors.py"
    named = {
        node.value
        for path, node in nodes("appliance")
        if path != table and isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    none_of(set(ERRORS) - named)


def test_every_error_key_is_documented() -> None:
    reference = text(ROOT / "docs/reference/errors.md")
    none_of(key for key in ERRORS if f"`{key}`" not in reference)


def test_every_limit_has_its_unit_and_origin_beside_it() -> None:
    path = ROOT / "appliance/core/limits.py"
    lines = text(path).splitlines()
    fields = [
        node
        for record in tree(path).body
        if isinstance(record, ast.ClassDef) and record.name == "Limits"
        for node in record.body
        if isinstance(node, ast.AnnAssign)
    ]
    assert fields
    none_of(place(path, node) for node in fields if "#" not in lines[node.lineno - 1])


def test_every_limit_is_kept_somewhere() -> None:
    """A bound that nothing reads bounds nothing. Read as `limits.NAME`, whatever the record of limits hangs on."""
    read = {
        node.attr
        for path, node in nodes("appliance")
        if path.name != "limits.py" and isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
        if ast.unparse(node.value).rpartition(".")[2].lstrip("_").lower() == "limits"
    }
    none_of(set(Limits.__struct_fields__) - read)


def test_every_decision_is_in_the_index() -> None:
    index = text(ROOT / "docs/adr/README.md")
    decisions = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
    assert decisions
    none_of(path.name for path in decisions if f"({path.name})" not in index)


def readable(path: Path) -> str:
    try:
        return text(path)
    except UnicodeDecodeError:
        return ""


@pytest.mark.parametrize("host", REGISTRIES)
def test_no_file_names_the_host_of_a_registry(host: str) -> None:
    none_of(place(path) for path in files() if host in readable(path))


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    none_of(
        place(path, number)
        for path in files()
        for number, line in enumerate(readable(path).splitlines(), start=1)
        if MACHINE_PATHS.search(line)
    )
