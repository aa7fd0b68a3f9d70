"""What was looked at, and what to do where it is not as it should be: a machine, a cluster, a plan."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at, and what to do where it is a problem."""

    name: str
    value: str
    is_problem: bool = False
    remedy: str = ""

    def __str__(self) -> str:
        mark = "PROBLEM" if self.is_problem else "ok"
        return f"{mark:<8}{self.name:<31} {self.value}" + (f"  -> {self.remedy}" if self.remedy else "")


def problem(name: str, value: str, remedy: str) -> Finding:
    """A finding that is a problem, on one line whatever the texts are."""
    return Finding(name=name, value=_one_line(value), is_problem=True, remedy=_one_line(remedy))


def unusable(name: str, given: str, error: Exception) -> Finding:
    """A problem that an error tells of something that was `given`, whose name is told once."""
    said = str(error)
    return problem(name, "cannot be used" if given in said else given, said)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 node`, `2,000 nodes`.

    Args:
        plural: of the noun, where it is not made by an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
