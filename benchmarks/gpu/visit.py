"""All that wants a GPU, in one go of under ten minutes, and a report of it: python visit.py [--peer-python PYTHON]

What is only checked runs side by side: tests marked `gpu`, the conformance kit, NVIDIA's sanitizers. What is measured runs
alone: launches and bandwidth, how long steps take to compile, and training steps beside those of PyTorch and JAX. Each stage
has a limit; one that fails or runs out does not stop the others. The report, as Markdown and as JSON, is written after every
group of stages. Without a device it exits 1 with the device's error; --simulated runs the same in small on a simulated one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import report

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PACKAGES = (
    "needle-core", "needle-cuda-backend", "numpy", "cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc", "nvidia-cublas",
    "nvidia-cudnn-cu13", "nvidia-cudnn-frontend",
)  # fmt: skip
QUERY = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.limit,persistence_mode,ecc.mode.current"
SIDE_BY_SIDE = 0.33
"""The share of what is only checked."""
TAIL = 25
"""Lines of what a stage wrote that a report has."""


@dataclass
class Stage:
    """A program with a share of the budget, and what became of it. `why` says why it did not run, or not to its end."""

    name: str
    command: list[str]
    share: float
    environment: dict[str, str] = field(default_factory=dict)
    status: str = "not run"
    why: str = "its turn did not come"
    seconds: float = 0.0
    records: list[dict[str, Any]] = field(default_factory=list)
    tail: str = ""


class Running:
    """A stage under way, in a process group of its own; its output goes to a file, so that a cut loses nothing."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage, self.start = stage, time.monotonic()
        self.path = folder / f"{stage.name}.out"
        stage.why = "the visit was stopped before it ended"
        self._file: IO[str] = self.path.open("w")
        environment = {**os.environ, **stage.environment, "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            stage.command,
            cwd=ROOT,
            env=environment,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, until: float) -> None:
        """Wait, stop it when its time has run out, and note what came of it."""
        stage = self.stage
        try:
            code = self._process.wait(max(until - time.monotonic(), 0.01))
            stage.status, stage.why = ("passed", "") if not code else ("failed", f"exit status {code}")
        except subprocess.TimeoutExpired:
            stage.status, stage.why = "out of time", f"stopped after {time.monotonic() - self.start:.0f} s"
            self.stop()
        stage.seconds = time.monotonic() - self.start
        self._file.close()
        lines = self.path.read_text(errors="replace").splitlines()
        stage.records = [record for line in lines if line.startswith("{") and (record := _record(line))]
        stage.tail = "\n".join([line for line in lines if line.strip() and not line.startswith("{")][-TAIL:])

    def stop(self) -> None:
        """End the process with all that it has started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _record(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except json.JSONDecodeError:  # cut in the midst
        return None
    return found if isinstance(found, dict) and "kind" in found else None


# -- the stages -------------------------------------------------------------------------------------------------------------


def stages(args: argparse.Namespace, cache: str) -> list[list[Stage]]:
    """The stages, those of a group side by side. Shares of groups add up to one; what is left over goes to the last."""
    python = sys.executable
    small = ["--small"] if args.simulated else []
    chosen = "not gpu" if args.simulated else "gpu"
    tests = [python, "-m", "pytest", "--quiet", "-m", chosen, "--color=no", "--durations=5", "-p", "no:cacheprovider"]
    tests.append(str(ROOT / "plugins/cuda_backend/tests" / ("test_gpu.py" if args.simulated else "")))
    conform = [
        python,
        "-c",
        "from needle_core.cli import main; main()",
        "conform",
        "cuda",
        "--quick" if args.simulated else "--full",
    ]
    case = args.case or ("softmax/*" if args.simulated else "")  # all of it takes minutes there
    conform += ["--simulated"] * args.simulated + (["--case", case] if case else [])
    templates = [python, str(HERE / "bandwidth.py"), "--small", "--once"]
    compare = [python, str(HERE / "compare.py"), "--device", "cuda:0", *small]
    compare += ["--workloads", args.workloads] if args.workloads else []
    benchmark = [*compare, "--rounds", str(args.rounds), "--slot", str(args.slot), "--peers", args.peers]
    benchmark += ["--peer-python", args.peer_python] if args.peer_python else []
    fresh = {"NEEDLE_CACHE": cache}
    groups = [
        [Stage("bandwidth", [python, str(HERE / "bandwidth.py"), *small], 0.12)],
        [
            Stage("tests", [*tests, *(["-k", args.tests] if args.tests else [])], SIDE_BY_SIDE, {"NEEDLE_DEVICE": "numpy"}),
            Stage("conformance", conform, SIDE_BY_SIDE),
            *_sanitizers(templates, args.simulated),
        ],
        [Stage("compilation", [*compare, "--rounds", "0", "--peers", ""], 0.1, fresh)],
        [Stage("benchmark", benchmark, 0.45)],
    ]
    wanted = args.stages.split(",") if args.stages else [stage.name for group in groups for stage in group]
    return [kept for group in groups if (kept := [stage for stage in group if stage.name in wanted])]


def _sanitizers(templates: list[str], is_simulated: bool) -> list[Stage]:
    """Each template once under NVIDIA's sanitizers; on the simulated device, which has guards of its own, without."""
    tools = ("memcheck", "racecheck")
    if is_simulated:
        absent = [Stage(tool, [], SIDE_BY_SIDE, why="the device is simulated") for tool in tools]
        return [Stage("templates", templates, SIDE_BY_SIDE), *absent]
    packaged = Path(sysconfig.get_path("purelib"), "nvidia/cu13/bin")
    found = shutil.which(
        "compute-sanitizer", path=os.pathsep.join([os.environ.get("PATH", ""), str(packaged), "/usr/local/cuda/bin"])
    )
    if not found:
        why = "compute-sanitizer is not installed: pip install nvidia-cuda-sanitizer-api"
        return [Stage(tool, [], SIDE_BY_SIDE, why=why) for tool in tools]
    command = [found, "--error-exitcode", "9", "--target-processes", "all"]
    return [Stage(tool, [*command, "--tool", tool, *templates], SIDE_BY_SIDE) for tool in tools]


def run_group(group: list[Stage], folder: Path, seconds: float) -> None:
    """Run stages side by side, for so long at most."""
    until = time.monotonic() + seconds
    running: list[Running] = []
    try:
        for stage in group:
            if stage.command:
                if stage.name == "benchmark":
                    stage.command += ["--limit", f"{max(seconds - 10, seconds / 2):.0f}"]
                running.append(Running(stage, folder))
        for each in running:
            each.finish(until)
    finally:
        for each in running:
            each.stop()


# -- the machine ------------------------------------------------------------------------------------------------------------


def facts(is_simulated: bool) -> dict[str, str]:
    """Versions, and what the device is. Raises DeviceUnavailableError if there is none."""
    import needle_core as ndl
    from needle_cuda_backend.backend import driver_of

    driver = driver_of(ndl.device("cuda:0"))
    found = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "device": driver.name,
        "architecture": driver.architecture,
        "platform": platform.platform(),
        "processors": str(os.cpu_count()),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    commit = _output(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"])
    if commit:
        found["commit"] = commit
    if not is_simulated:
        found |= _of_driver()
    return found


def _of_driver() -> dict[str, str]:
    """What the driver and nvidia-smi say."""
    from cuda.bindings import driver
    from cuda.core import Device

    _, number = driver.cuDriverGetVersion()
    major, minor = Device(0).compute_capability
    found = {"driver's CUDA": f"{number // 1000}.{number % 1000 // 10}", "compute capability": f"{major}.{minor}"}
    told = _output(["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"])
    if not told:
        return found | {"nvidia-smi": "not there, so clocks are unknown"}
    values = told.splitlines()[0].split(", ")
    return found | dict(zip((f"nvidia-smi {name}" for name in QUERY.split(",")), values, strict=False))


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu-report"), help="a folder (default: gpu-report)")
    parser.add_argument("--budget", type=float, default=600, help="seconds for all stages")
    parser.add_argument(
        "--stages", help="only these, with commas: " + "bandwidth,tests,conformance,memcheck,racecheck,compilation,benchmark"
    )
    parser.add_argument("--peer-python", help="the Python that has PyTorch and JAX (default: this one)")
    parser.add_argument("--peers", default="eager,compile,reduce-overhead,graph,graph-compile,jax")
    parser.add_argument("--workloads", help="only these, with commas")
    parser.add_argument("--tests", help="only tests that match, as -k of pytest")
    parser.add_argument("--case", help="only checks of the conformance kit that match, as 'add/*'")
    parser.add_argument("--rounds", type=int, default=7, help="turns of the benchmark")
    parser.add_argument("--slot", type=float, default=0.3, help="seconds of each turn")
    parser.add_argument("--simulated", action="store_true", help="in small on the simulated device: no claim of speed")
    args = parser.parse_args()
    start = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends too
    os.environ["NEEDLE_CUDA_SIMULATED"] = str(int(args.simulated))
    from needle_core.errors import DeviceUnavailableError

    try:
        told = facts(args.simulated)
    except DeviceUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / ".gitignore").write_text("*\n")
    with tempfile.TemporaryDirectory() as cache:
        groups = stages(args, cache)
        everything = [stage for group in groups for stage in group]

        def write() -> None:
            found = {
                "simulated": args.simulated,
                "budget_s": args.budget,
                "seconds": time.monotonic() - start,
                "facts": told,
                "stages": [asdict(stage) for stage in everything],
            }
            (args.output / "report.json").write_text(json.dumps(found, indent=1) + "\n")
            (args.output / "report.md").write_text(report.as_markdown(found))

        write()
        for group in groups:
            left = args.budget - (time.monotonic() - start)
            seconds = left if group is groups[-1] else min(left, args.budget * max(stage.share for stage in group))
            if left < 1:
                for stage in group:
                    stage.why = "the budget was used up"
                continue
            print(f"{', '.join(stage.name for stage in group)}: up to {seconds:.0f} s", flush=True)
            try:
                run_group(group, args.output, seconds)
            finally:
                write()
    for stage in everything:
        print(f"{stage.name}: {stage.status}{f', {stage.why}' if stage.why else ''} ({stage.seconds:.0f} s)")
    print(f"the report: {args.output / 'report.md'}")
    return 0 if all(stage.status == "passed" or not stage.command for stage in everything) else 1


if __name__ == "__main__":
    sys.exit(main())
