"""The import rules, read from the sources: no process carries what it does not need."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("schemas", "stream_app", "training", "ops")
FORBIDDEN = {
    "schemas": {"faust", "mode", "aiokafka", "torch", "onnxruntime", "rocksdict", "stream_app", "training", "ops"},
    "stream_app": {"torch", "onnx", "training", "ops", "kafka"},
    "training": {"faust", "mode", "aiokafka", "rocksdict", "stream_app", "ops"},
    "ops": {"torch"},
}
STOCK = "ops/bench/stock.py"
"""What one would write first, as a process of its own that no module imports: the reference of a benchmark."""
FAUST = {"faust", "mode", "aiokafka"}
KNOW_FAUST = {"batch_transport.py", "host.py", "__main__.py"}
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "telnetlib", "xmlrpc"}
UNSAFE_CALLS = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "yaml.load",
    "yaml.unsafe_load",
    "tempfile.mktemp",
    "torch.load",
}
OBJECTS_SENT = {"broadcast_object_list", "scatter_object_list", "gather_object", "all_gather_object"}
"""torch pickles what it sends with these"""
VAGUE = {"utils", "util", "common", "base", "helpers", "helper", "manager", "misc"}


def sources(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"{package} has no sources"
    return found


def imported(source: Path) -> Iterator[str]:
    """The top-level packages that a source names in any of its import statements."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source} has a relative import"
            assert node.module is not None
            yield node.module.partition(".")[0]


def modules_named(source: Path) -> set[str]:
    """What a source imports, as full names: of `from a import b` both `a` and `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_imports_what_it_must_not(package: str):
    found = {str(s.relative_to(ROOT)): sorted(FORBIDDEN[package] & set(imported(s))) for s in sources(package)}
    assert found.pop(STOCK, ["torch"]) == ["torch"]
    assert {source: names for source, names in found.items() if names} == {}


def test_no_module_imports_the_stock_reference():
    naming = [s for package in PACKAGES for s in sources(package) if "ops.bench.stock" in modules_named(s)]
    assert naming == []


def test_faust_is_known_to_few_files_of_the_worker():
    assert {source.name for source in sources("stream_app") if FAUST & set(imported(source))} <= KNOW_FAUST


def test_no_module_has_a_name_that_says_nothing():
    paths = [source.relative_to(ROOT) for package in (*PACKAGES, "tests") for source in sources(package)]
    assert [path for path in paths if VAGUE & {part.removesuffix(".py") for part in path.parts}] == []


def unsafe(source: Path) -> Iterator[str]:
    """Every place of a source that runs what it reads, by line."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            modules = {name.partition(".")[0] for name in [getattr(node, "module", None) or "", *names]}
            yield from (f"{node.lineno}: {module}" for module in sorted(modules & UNSAFE_MODULES))
        elif isinstance(node, ast.Call):
            called, given = ast.unparse(node.func), {one.arg: ast.unparse(one.value) for one in node.keywords}
            if called in UNSAFE_CALLS or called.rpartition(".")[2] in OBJECTS_SENT:
                yield f"{node.lineno}: {called}"
            if given.get("shell", "False") != "False" or given.get("allow_pickle", "False") != "False":
                yield f"{node.lineno}: {called}"
            # without it rocksdict pickles what is no bytes, and unpickles what it finds
            if called in ("Options", "WriteBatch") and given.get("raw_mode") != "True":
                yield f"{node.lineno}: {called} without raw_mode"


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_that_is_read_is_ever_run(package: str):
    found = {str(source.relative_to(ROOT)): list(unsafe(source)) for source in sources(package)}
    # the processes of one training trust each other
    found["training/fitting/distributed.py"] = [
        place for place in found.get("training/fitting/distributed.py", []) if "broadcast_object_list" not in place
    ]
    assert {source: places for source, places in found.items() if places} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "numpy.load(path, allow_pickle=True)",
        "eval(text)",
        "yaml.load(text)",
        "subprocess.run(text, shell=True)",
        "distributed.scatter_object_list(things)",
        "Options()",
        "WriteBatch(raw_mode=False)",
    ],
)
def test_what_would_be_run_is_found(line: str, tmp_path: Path):
    (tmp_path / "source.py").write_text(f"x = 1\n{line}\n")
    [place] = unsafe(tmp_path / "source.py")
    assert place.startswith("2: ")


def modules_after(statement: str) -> set[str]:
    """The top-level modules that a new process has loaded after `statement`."""
    command = f"{statement}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(
        subprocess.run(
            [sys.executable, "-c", command], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.split()
    )


def test_the_engine_loads_neither_torch_nor_faust():
    loaded = modules_after("import stream_app.engine")
    assert "onnxruntime" in loaded
    assert loaded & {"torch", "onnx", "faust", "mode", "aiokafka", "training", "ops"} == set()


def test_the_whole_worker_loads_neither_torch_nor_what_only_operators_need():
    loaded = modules_after("import stream_app.host")
    assert "faust" in loaded
    assert loaded & {"torch", "onnx", "training", "ops", "kafka"} == set()


def test_the_contracts_load_none_of_the_heavy_libraries():
    names = ", ".join(f"schemas.{source.stem}" for source in sources("schemas") if source.stem != "__init__")
    loaded = modules_after(f"import {names}")
    assert loaded & {"torch", "onnxruntime", "faust", "aiokafka", "rocksdict"} == set()
