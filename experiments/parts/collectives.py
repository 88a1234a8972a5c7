"""Collectives of a compiled program, from its text: number of calls and bytes."""

import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s64": 8, "u64": 8, "f64": 8}
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(r"^(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][\w\-]*)\(")
_CALLED = re.compile(r"(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_SHAPE = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")


class Traffic(NamedTuple):
    """Number of collective operations, and bytes that each device contributes to them."""

    calls: int = 0
    bytes: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":  # type: ignore[override]
        """Both."""
        return Traffic(self.calls + other.calls, self.bytes + other.bytes)

    def times(self, n: int) -> "Traffic":
        """The traffic of n repetitions."""
        return Traffic(n * self.calls, n * self.bytes)


def traffic(program: str) -> Traffic:
    """Collectives in one execution of a compiled program (`compiled.as_text()`), with loops counted by their length.

    Raises:
      ValueError: if a loop of unknown length contains a collective.
    """
    computations, entry = _computations(program)
    known: dict[str, Traffic] = {}

    def of(name: str) -> Traffic:
        if name not in known:
            known[name] = sum((line_traffic(line) for line in computations.get(name, [])), Traffic())
        return known[name]

    def line_traffic(line: str) -> Traffic:
        operation = _OPERATION.match(line)
        if operation is None:
            return Traffic()
        shape, kind = operation.groups()
        if kind.removesuffix("-start") in KINDS:
            return Traffic(1, _size(shape))
        inside = sum((of(name) for name in _called(line)), Traffic())
        if kind == "while" and inside.calls:
            trips = _TRIPS.search(line)
            if trips is None:
                raise ValueError(f"a loop of unknown length contains {inside.calls} collectives")
            return inside.times(int(trips[1]))
        return inside

    return of(entry)


def _computations(program: str) -> tuple[dict[str, list[str]], str]:
    """Lines of each computation by name, and the name of the entry computation."""
    computations: dict[str, list[str]] = {}
    name = entry = ""
    for line in program.splitlines():
        header = _HEADER.match(line)
        if header:
            name = header[2]
            computations[name] = []
            entry = name if header[1] else entry
        elif name and line.startswith(" "):
            computations[name].append(line.strip())
    return computations, entry


def _called(line: str) -> Iterator[str]:
    yield from _CALLED.findall(line)
    for branches in _BRANCHES.findall(line):
        yield from (name.strip().lstrip("%") for name in branches.split(","))


def _size(shape: str) -> int:
    """Bytes of a result type such as `(f32[2,3]{1,0}, s32[])`."""
    total = 0
    for kind, dimensions in _SHAPE.findall(shape):
        count = 1
        for n in filter(None, dimensions.split(",")):
            count *= int(n)
        total += count * _BYTES.get(kind, 4)
    return total
