import subprocess
import sys
from pathlib import Path

import pytest

from schemas.extras import needed
from schemas.settings import REFUSED

WITHOUT = """
import runpy, sys
package, program, *arguments = sys.argv[1:]
sys.modules[package] = None
sys.argv = [program, *arguments]
runpy.run_module(program, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("package", "program", "command"),
    [("rich", "ops", "topics"), ("torch", "training", "run")],
)
def test_a_package_that_is_not_installed_is_one_line_that_names_the_extra(
    package: str, program: str, command: str
) -> None:
    root = Path(__file__).parents[2]
    words = [sys.executable, "-c", WITHOUT, package, program, command]
    ended = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    line = f"python -m {program}: the package {package} is not installed: pip install 'lrurec-stream[{program}]'\n"
    assert (ended.returncode, ended.stderr) == (REFUSED, line)


def test_a_module_of_ours_that_is_missing_is_a_fault_and_not_an_extra() -> None:
    with pytest.raises(ModuleNotFoundError), needed("python -m ops", "ops"):
        import ops.nothing  # type: ignore[import-not-found]  # noqa: F401
