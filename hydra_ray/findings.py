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
        return f"{mark:<8}{self.name:<32}{self.value}" + (f"  -> {self.remedy}" if self.remedy else "")


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 node`, `2,000 nodes`.

    Args:
        plural: of the noun, where it is not made by an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
