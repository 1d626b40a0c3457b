"""The compiled inner loops of a training step: built at first use, and done without where there is no compiler.

On a CPU the compiler is `CXX`, or what is found of c++, g++ and clang++. A shared library lies in the user's cache
directory under a name made of its sources, the compiler and the CPU, so that a build is never used on a machine that it
was not made for. On a GPU they are Triton's, which needs a C compiler to start them.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import threading
from pathlib import Path
from types import ModuleType
from typing import Final

import structlog
import torch
from torch import Tensor

FOLDER: Final = Path(__file__).parent
SOURCES: Final = ("layers.cpp", "softmax.cpp")
HEADERS: Final = ("arithmetic.hpp",)
COMPILERS: Final = ("c++", "g++", "clang++")
OPTIONS: Final = ("-std=c++20", "-O3", "-march=native", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
RELAXED: Final = ("-fassociative-math", "-fno-signed-zeros", "-freciprocal-math", "-ffinite-math-only")
"""sums in any order; what is not finite shows in the loss, which PyTorch computes"""
WIDE: Final = "-mprefer-vector-width=512"
COMPILE_TIMEOUT_S: Final = 120.0

NAMES: Final = {torch.bfloat16: "bfloat16", torch.float32: "float32"}

_building = threading.Lock()
_log = structlog.get_logger()


def run(name: str, dtype: torch.dtype, *arguments: Tensor | float | None) -> None:
    """Call a kernel for activations of `dtype`; ints become int64, floats float, tensors pointers, None a null pointer.

    The kernels must be there, and every tensor contiguous and on the CPU. Other threads go on meanwhile.
    """
    getattr(library(), f"{name}_{NAMES[dtype]}")(*map(_passed, arguments))


def suit(x: Tensor) -> bool:
    """Whether kernels can work on activations like these."""
    return x.device.type == "cpu" and x.dtype in NAMES and library() is not None


def gpu_kernels_for(x: Tensor) -> ModuleType | None:
    """`gpu_kernels`, if they can work on activations like these; None on a CPU, and where Triton cannot be used."""
    return _gpu_kernels() if x.is_cuda and x.dtype in NAMES else None


@functools.cache
def _gpu_kernels() -> ModuleType | None:
    try:
        # imported only now: Triton is not everywhere, and takes its time
        from training.model import gpu_kernels

        gpu_kernels.probe()
    except Exception as error:  # whatever a compiler and a driver that are not ours may raise
        _log.warning("no kernels for the GPU: training goes on without, slower", error=str(error)[:500])
        return None
    return gpu_kernels


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where there is no compiler or it fails."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        _log.info("no C++ compiler: training goes on without compiled kernels, slower")
        return None
    try:
        return ctypes.CDLL(str(_built(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        _log.warning("kernels could not be compiled: training goes on without", compiler=compiler, error=said[:500])
        return None


def _built(compiler: str) -> Path:
    """The shared library, compiled now if it is not in the cache."""
    options = [*OPTIONS, *RELAXED, *([WIDE] if platform.machine() in ("x86_64", "AMD64") else [])]
    told = _output([compiler, "--version"])
    texts = ((FOLDER / name).read_text() for name in (*SOURCES, *HEADERS))
    made_of = (*texts, compiler, told, " ".join(options), _cpu())
    name = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:20]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lrurec-stream"
    path = folder / f"kernels-{name}.so"
    with _building:  # the shares of a first step ask at the same time
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(f".{os.getpid()}")
            command = [compiler, *options, *(str(FOLDER / name) for name in SOURCES), "-o", str(unfinished)]
            try:
                _output(command)
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
    return path


def _output(command: list[str]) -> str:
    # the compiler is the user's own, as for any build
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=COMPILE_TIMEOUT_S).stdout  # noqa: S603


def _cpu() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() + platform.platform()
    return "".join(next((line for line in lines if line.startswith(key)), "") for key in ("model name", "flags"))


def _passed(argument: Tensor | float | None) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_float:
    if isinstance(argument, Tensor):
        assert argument.is_contiguous()
        return ctypes.c_void_p(argument.data_ptr())
    if argument is None:
        return ctypes.c_void_p()
    return ctypes.c_int64(argument) if isinstance(argument, int) else ctypes.c_float(argument)
