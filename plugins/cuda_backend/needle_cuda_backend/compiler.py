"""Plans as graphs of a device: all that a step gives the device to do, over one arena, replayed at each call.

The first call with buffers at new addresses issues the operations one by one, which chooses the algorithms of products; the
second captures them; from then on a call replays. State is updated where it lies, so its addresses stay. Where an argument
comes at ever new addresses, it is copied to a place of its own from its second address on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NoReturn
from weakref import finalize

from needle_core.backend import Executable
from needle_core.errors import KernelError
from needle_core.graph.alike import flat
from needle_core.graph.executor import failed
from needle_core.graph.graph import Constant, Fused, Node, Value
from needle_core.graph.plan import Plan
from needle_core.graph.units import Unit, units
from needle_cuda_backend import debug
from needle_cuda_backend.body import recipe_of_node
from needle_cuda_backend.driver import Driver
from needle_cuda_backend.issue import Address, Bind, Run, addresses, prepared
from needle_cuda_backend.loops import recipe_of_many
from needle_cuda_backend.memory import Buffer, Memory
from needle_cuda_backend.recipe import Place, Recipe

LARGEST = 5
"""Values that the error of a step that needs too much memory names."""


def compiled(plan: Plan, driver: Driver) -> Executable:
    """A step for a device."""
    step = _Step(plan, driver)
    return Executable(step.run, set(plan.donated.values()), step.profile)


class _Step:
    """A plan on a device, with its memory: arena, results, scratch, places for arguments that move."""

    def __init__(self, plan: Plan, driver: Driver) -> None:
        self.plan, self.driver = plan, driver
        graph = plan.graph
        self._inputs = {v: j for j, v in enumerate(graph.inputs)}
        self.units = units(plan)
        self.recipes = [recipe_of_unit(unit) for unit in self.units]
        self._can_fail = any(recipe.failure for recipe in self.recipes)
        if self._can_fail:
            self._commit_unless_failed()
        by_unit = zip(self.units, self.recipes, strict=True)
        self._marks = [driver.mark(partial(_refuse, u.nodes[-1], r)) if r.failure else 0 for u, r in by_unit]
        finalize(self, driver.forget, self._marks).atexit = False
        self._results = [k for k, v in enumerate(graph.outputs) if plan.memory.get(v) == ("output", k)]
        self._memory = self._allocate(plan.arena, max((r.scratch for r in self.recipes), default=0))
        self._operations: list[list[Bind]] = prepared(driver, self.recipes)
        self._slots: dict[int, Memory] = {}  # of arguments that move
        self._key: tuple[int, ...] = ()
        self._replay: Run | None = None
        self._captured: list[Run] = []
        self._never_captured = debug.is_on()
        debug.dump(plan, self.recipes, driver)

    def run(self, *buffers: Buffer) -> Sequence[Buffer]:
        """Run the step on the buffers of its inputs. A number that it refuses is told when the device has come so far."""
        with self.driver.lock:
            self.driver.check()
            given = [b.address for b in buffers]
            for j, slot in self._slots.items():
                self.driver.copy(slot.address, given[j], slot.nbytes)
                given[j] = slot.address
            key = tuple(given)
            if key != self._key:
                self._move(buffers, given)
                self._issue(given)
            elif self._replay is None and not self._never_captured:
                self._captured = self._bound(given)  # kept, for they have memory that is read
                self._replay = self.driver.captured(partial(_all, self._captured))
                self._replay()
            elif self._replay is None:
                self._issue(given)
            else:
                self._replay()
            self.driver.check()
            return self._given(buffers)

    def profile(self, *buffers: Buffer) -> Mapping[Node, float]:
        """The seconds that each node takes, in a run whose results nobody gets."""
        with self.driver.lock:
            seconds: dict[Node, float] = {}
            given = [b.address for b in buffers]
            for unit, binds, address in zip(self.units, self._operations, self._addresses(given), strict=True):
                runs = [bind(address) for bind in binds]
                seconds |= unit.shares(self.driver.seconds(partial(_all, runs)))
            return seconds

    # -- addresses ----------------------------------------------------------------------------------------------------------

    def _move(self, buffers: Sequence[Buffer], given: list[int]) -> None:
        """Note the addresses of the inputs. An argument that was elsewhere at the last call gets a place of its own."""
        donated = set(self.plan.donated.values())
        for j, buffer in enumerate(buffers):
            if self._key and given[j] != self._key[j] and j not in donated:
                slot = self._slots[j] = self.driver.allocate(buffer.nbytes)
                self.driver.copy(slot.address, given[j], buffer.nbytes)
                given[j] = slot.address
        self._key, self._replay = tuple(given), None

    def _addresses(self, given: Sequence[int]) -> list[Address]:
        """For each unit, what gives the places of its recipe addresses."""
        arena, results, scratch = self._memory

        def of(v: Value) -> int:
            if v in self._inputs:
                return given[self._inputs[v]]
            if isinstance(v, Constant):
                return int(v.buffer.address)
            region, number = self.plan.memory[v]
            if region == "arena":
                return arena.address + number
            return given[number] if region == "input" else results[number].address

        return [
            addresses(self.driver, [*map(of, unit.inputs)], [*map(of, unit.outputs)], scratch.address, mark)
            for mark, unit in zip(self._marks, self.units, strict=True)
        ]

    def _bound(self, given: Sequence[int]) -> list[Run]:
        by_unit = zip(self._addresses(given), self._operations, strict=True)
        runs = [bind(address) for address, binds in by_unit for bind in binds]
        return [*runs, self.driver.publish] if self._can_fail else runs

    def _issue(self, given: Sequence[int]) -> None:
        """Give the device the operations one by one; when debugging, wait for each."""
        if not self._never_captured:
            _all(self._bound(given))
            return
        by_unit = zip(self.units, self.recipes, self._operations, self._addresses(given), strict=True)
        for unit, recipe, binds, address in by_unit:
            for operation, bind in zip(recipe.operations, binds, strict=True):
                debug.watched(self.driver, unit.nodes[0], operation, bind(address))
        self.driver.publish()

    def _allocate(self, arena: int, scratch: int) -> tuple[Memory, dict[int, Memory], Memory]:
        graph = self.plan.graph
        try:
            results = {k: self.driver.allocate(graph.outputs[k].spec.nbytes) for k in self._results}
            return self.driver.allocate(arena), results, self.driver.space("steps", scratch)
        except KernelError as cause:
            largest = sorted(self.plan.memory, key=lambda v: -v.spec.nbytes)[:LARGEST]
            details = {f"{v.spec.nbytes / 2**20:.1f} MiB": f"{v.spec}, {_maker(v)}" for v in largest}
            raise KernelError(f"{cause.summary}: a step needs {self.plan.peak / 2**20:.1f} MiB", details=details) from cause

    # -- results and failures -----------------------------------------------------------------------------------------------

    def _given(self, buffers: Sequence[Buffer]) -> list[Buffer]:
        """The buffers of the outputs. What is new is copied, for the next call writes in the same place."""
        _, results, _ = self._memory
        new: dict[int, Buffer] = {}
        for k, memory in results.items():
            spec = self.plan.graph.outputs[k].spec
            new[k] = self.driver.buffer(spec.shape, spec.dtype)
            if spec.nbytes:
                self.driver.copy(new[k].address, memory.address, spec.nbytes)
        given = []
        for v in self.plan.graph.outputs:
            if isinstance(v, Constant):
                given.append(v.buffer)
            elif v in self._inputs:
                given.append(buffers[self._inputs[v]])
            else:
                region, number = self.plan.memory[v]
                given.append(buffers[number] if region == "input" else new[number])
        return given

    def _commit_unless_failed(self) -> None:
        """Let kernels that write state do nothing once a number was refused: all that can refuse comes before them."""
        for unit, recipe in zip(self.units, self.recipes, strict=True):
            if any(self.plan.memory[y].region == "input" for y in unit.outputs):
                recipe.operations = [
                    x._replace(entry=x.entry.unless_failed(), arguments=(*x.arguments, Place("failure")))
                    for x in recipe.operations  # launches: only what is elementwise or reduces may write state so late
                ]


def recipe_of_unit(unit: Unit) -> Recipe:
    """What a unit of a plan consists of."""
    if not unit.is_group:
        return recipe_of_node(unit.nodes[0], unit.outputs, fixed=True)
    programs = [flat(node) for node in unit.nodes if isinstance(node, Fused)]
    return recipe_of_many([program for program in programs if program is not None])


def _refuse(node: Node, recipe: Recipe) -> NoReturn:
    """Raise the error for a number that a node has refused. Nothing that comes after it has written state."""
    assert recipe.failure is not None
    error, message = recipe.failure
    failed(node, error(message))


def _all(runs: Sequence[Run]) -> None:
    for run in runs:
        run()


def _maker(v: Value) -> str:
    node = getattr(v, "node", None)
    return f"of {node.name}, {node.source}" if isinstance(node, Node) else v.label
