"""Findings of checks of a machine, a cluster or a plan, with remedies."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Result of one check, with a remedy where it is a problem."""

    name: str
    value: str
    is_problem: bool = False
    remedy: str = ""

    def __str__(self) -> str:
        mark = "PROBLEM" if self.is_problem else "ok"
        return f"{mark:<8}{self.name:<31} {self.value}" + (f"  -> {self.remedy}" if self.remedy else "")


def problem(name: str, value: str, remedy: str) -> Finding:
    """Return a finding that is a problem, its texts joined to one line."""
    return Finding(name=name, value=_one_line(value), is_problem=True, remedy=_one_line(remedy))


def unusable(name: str, given: str, error: Exception) -> Finding:
    """Return a problem for something `given` that raised an error, without repeating its name."""
    said = str(error)
    return problem(name, "cannot be used" if given in said else given, said)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 node`, `2,000 nodes`.

    Args:
        plural: plural of the noun, where it is irregular.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
