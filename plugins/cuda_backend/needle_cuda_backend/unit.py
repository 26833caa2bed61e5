"""Translation units: the source that many kernels become, compiled for a GPU or for the host, and kept on disk."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from needle_core.errors import DeviceUnavailableError, KernelError
from needle_core.plugins.environment import cache_folder
from needle_cuda_backend.recipe import Entry

HERE: Final = Path(__file__).parent
KERNELS: Final = HERE / "kernels"
SIMULATED: Final = HERE / "simulated"


def source_of(entries: Iterable[Entry]) -> str:
    """One source with all entries."""
    entries = sorted(set(entries))
    families = sorted({f for x in entries for f in x.families})
    lines = [f'#include "{family}.cuh"' for family in ("prelude", *families)]
    for x in entries:
        lines += ["", f'extern "C" __global__ void {x.name}({", ".join(x.parameters)}) {{', x.body, "}"]
    lines += ["", "#ifndef __CUDACC_RTC__"]
    lines += [f"HOST_ENTRY({x.name}, {str(x.has_barriers).lower()})" for x in entries]
    return "\n".join([*lines, "#endif", ""])


class Cubin(NamedTuple):
    """Machine code for one architecture, and what the assembler said of it."""

    code: bytes
    log: str

    def usage(self) -> dict[str, tuple[int, int]]:
        """By name of kernel: the registers of a thread, and the bytes that are spilled to memory."""
        found: dict[str, tuple[int, int]] = {}
        name, spilled = "", 0
        for line in self.log.splitlines():
            if match := re.search(r"Function properties for (\w+)", line):
                name = match[1]
            elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
                spilled = int(match[1]) + int(match[2])
            elif match := re.search(r"Used (\d+) registers", line):
                found[name] = int(match[1]), spilled
        return found


def cubin(source: str, architecture: str) -> Cubin:
    """The source compiled by NVRTC, which needs no GPU. `architecture` is as in "sm_90a"."""

    def make(path: Path) -> None:
        from cuda.core import Program, ProgramOptions

        log = io.StringIO()
        options = ProgramOptions(
            arch=architecture, std="c++20", include_path=[str(KERNELS)], fma=False, ptxas_options=["-v"], lineinfo=True
        )
        try:
            code = Program(source, "c++", options).compile("cubin", logs=log).code
        except Exception as cause:
            raise KernelError(f"NVRTC refuses the source of kernels: {cause}\n{log.getvalue()}") from cause
        path.write_bytes(code if isinstance(code, bytes) else Path(code).read_bytes())
        path.with_suffix(".log").write_text(log.getvalue())

    path = _kept([source, architecture, _nvrtc_version(), *_headers()], "kernels.cubin", make)
    return Cubin(path.read_bytes(), path.with_suffix(".log").read_text())


def host_library(source: str) -> Path:
    """The same source compiled for the host, by the C++ compiler."""

    def make(path: Path) -> None:
        written = path.with_suffix(".cc")
        written.write_text(source)
        _compile([f"-I{_precompiled().parent}", *_HOST, "-shared", "-nostdlib", str(written)], path)

    return _kept([source, *_headers()], "kernels.so", make)


def simulator(name: str, *options: str) -> Path:
    """A library of the simulated device: `name`.cpp."""
    file = SIMULATED / f"{name}.cpp"

    def make(path: Path) -> None:
        _compile(["-O3", *options, "-shared", str(file)], path)

    return _kept([file.read_text(), *options], f"{name}.so", make)


_HOST: Final = ("-O1", "-fwrapv", "-ffp-contract=off", f"-I{KERNELS}", f"-I{SIMULATED}")


@cache
def _precompiled() -> Path:
    """What all sources begin with, read by the compiler once: three quarters of the time that a small kernel takes."""
    begins = KERNELS / "prelude.cuh"

    def make(path: Path) -> None:
        _compile([*_HOST, "-w", "-x", "c++-header", str(begins)], path)

    return _kept(_headers(), f"{begins.name}.gch", make)


def _kept(key: list[str], name: str, make: Callable[[Path], None]) -> Path:
    """The file that `make` writes, from the cache if it was made before of the same. It appears whole or not at all."""
    digest = hashlib.sha256("\0".join([name, os.environ.get("CXX", ""), *key]).encode()).hexdigest()[:24]
    place = cache_folder("cuda") / digest
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as work:
            made = Path(work) / "made"
            made.mkdir()
            make(made / name)
            try:
                made.rename(place)
            except OSError:
                if not place.exists():  # else another process was first
                    raise
    return place / name


def _compile(arguments: list[str], output: Path) -> None:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise DeviceUnavailableError("the simulated device needs a C++ compiler", hint="apt-get install g++")
    command = [compiler, "-std=c++20", "-fPIC", *arguments, "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KernelError(f"the C++ compiler refuses the source of kernels:\n{done.stderr}")


@cache
def _headers() -> list[str]:
    return [file.read_text() for folder in (KERNELS, SIMULATED) for file in sorted(folder.glob("*.*h"))]


@cache
def _nvrtc_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("nvidia-cuda-nvrtc")
    except PackageNotFoundError:
        return "system"
