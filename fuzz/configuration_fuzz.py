"""Seeded fuzzing of configurations: every setting, with every kind of YAML value, in files and in overrides.

    python fuzz/configuration_fuzz.py --cases 20000 --seed 0

prints how many cases were taken and refused; status 1 where one ended in anything but a value or a HydraError, took too
long, or was refused in words that are not this package's. Settings come from the configuration's own types.
"""

import argparse
import random
import resource
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel

from hydra_ray.config import RunConfig, load_config
from hydra_ray.config.check import section_of
from hydra_ray.errors import ConfigError, HydraError
from hydra_ray.lamp.tasks import task_of
from hydra_ray.sweep.config import SweepConfig, load_sweep
from hydra_ray.sweep.space import trial_settings

SECONDS_A_CASE = 20
MEGABYTES = 4096
"""Address space of the process."""
FOREIGN_WORDS = (
    "Input should",
    "pydantic",
    "function-after",
    "function-before",
    "Value error",
    "Traceback",
    "yaml.org",
)
"""Words of other programs, which say little to who writes a configuration."""
LONGEST_LINE = 1500

FEWEST = {
    "run": "test",
    "storage": {"root": "/tmp/storage"},
    "lamp": {"task": "planted", "planted": {}},
    "generator": {"engine": "fake", "model": "none"},
    "reranker": {"base": {"encoder": "none"}},
    "adapter": {"base": {"encoder": "none"}},
}
"""The fewest settings that a run needs."""
SCALARS = (
    "", "~", "null", "yes", "no", "on", "off", "true", "False", "0", "1", "-1", "4", "007", "0o17", "0x1F",
    "0b11", "1_000", "12:30", "190:20:30.5", "1e3", "1.5", "-.5", ".inf", "-.INF", ".nan", "1e999", "9" * 25,
    "9" * 6000, "-" + "9" * 19, "2024-02-29", "2024-02-30", "2024-02-29T10:00:00Z", "text", "'text'",
    '"te\\u00e9xt"', '"\\ud83d"', '"\\x00"', "=", "<<", "a: b", "é", "喜剧", "\ud83d", "\0", "\x07", "\t",
    "\ufeff", "\u2028", "@", "`", "%", "'", '"', "|", ">", "&", "*", "!", "x" * 3000, "../..", "s3://b/k",
    "http://[", "http://h:99999", "https://u:p@h/", "!!int x", "!!float ''", "!!bool 2", "!!binary _",
    "!!binary aGk=", "!!timestamp x", "!!python/name:os.system", "!!str 5", "!x y", "{", "}", "[", "]", ",",
    "zero_shot", "rag_k", "(?P<input>.+)", "(", "a{99999999999}", "(?P<input>" + "(" * 300 + ")" * 300 + ")",
    "{output}",
)  # fmt: skip
"""Scalars that YAML reads in its own way, that its loader cannot make, or that a setting may trip over."""
COMPOUNDS = (
    "[]", "{}", "[§]", "[§, §]", "{a: §}", "{§: §}", "{a: §, a: §}", "{? [§] : b}", "{<<: §}",
    "{<<: {a: §}, a: §}", "&a [§, *a]", "[&a §, *a, *a]", "*a", "!!set {§}", "!!omap [§]", "[§", "{a: §",
    "--- §\n--- §", "{low: §, high: §}", "{name: t, kind: classification, instruction: §, labels: [§, §]}",
    "{name: t, kind: rating, instruction: q, labels: [§]}",
    "{name: t, kind: text, instruction: q, input_pattern: §}", "{base_url: §, model: m}",
    "{base_url: 'http://h/v1', model: §, api_key_env: §}", "- §\n- §", "a:\n  b: §",
)  # fmt: skip
"""Frames in which values stand, at §."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FuzzCase:
    """A configuration with overrides. Key: (seed, number) of its making."""

    document: str
    overrides: tuple[str, ...]
    is_sweep: bool


def settings_of(section: type[BaseModel], above: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings and sections."""
    for name in section.model_fields:
        yield f"{above}{name}"
        inner = section_of(section, name)
        if inner is not None:
            yield from settings_of(inner, f"{above}{name}.")


RUN_KEYS, SWEEP_KEYS = tuple(settings_of(RunConfig)), tuple(SweepConfig.model_fields)


def make_case(seed: int, number: int) -> FuzzCase:
    """Return a case, which depends on the seed and its number alone."""
    rng = random.Random(f"{seed} {number}")
    is_sweep = rng.random() < 0.15
    settings = {"sweep": "s", "base": "base.yaml", "space": {"drafts.num_samples": [1, 2]}} if is_sweep else {**FEWEST}
    lines: list[str] = []
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        key = _key(rng, SWEEP_KEYS if is_sweep else RUN_KEYS)
        settings.pop(key.partition(".")[0] if rng.random() < 0.9 else "", None)
        lines.append(_nested(key, _value(rng)))
    document = yaml.safe_dump(settings) + "".join(f"{line}\n" for line in lines)
    if rng.random() < 0.15:
        document = _mutated(rng, document)
    overrides = tuple(f"{_key(rng, RUN_KEYS)}={_value(rng)}" for _ in range(rng.choice((0, 1, 1, 2, 4))))
    return FuzzCase(document=document, overrides=overrides, is_sweep=is_sweep)


def _key(rng: random.Random, keys: tuple[str, ...]) -> str:
    """Return a key that there is, or, now and then, one that is misspelled, too deep or no key."""
    key = rng.choice(keys)
    slip = rng.random()
    if slip < 0.7:
        return key
    if slip < 0.8:
        place = rng.randrange(len(key))
        return key[:place] + rng.choice(("", "_", "x", ".", "é", " ", "=")) + key[place + 1 :]
    if slip < 0.9:
        return f"{key}.{rng.choice(('0', 'a', '', 'x.y', 'a.' * 200 + 'b'))}"
    above, _, name = key.rpartition(".")
    return rng.choice((name, f"generator.{name}", f"{above}.{above}.{name}", "", ".", "1", "<<"))


def _value(rng: random.Random, depth: int = 0) -> str:
    if rng.random() < (0.5 if depth == 0 else 0.75) or depth > 3:
        return rng.choice(SCALARS)
    if rng.random() < 0.04:
        return _grown(rng)
    return rng.choice(COMPOUNDS).replace("§", _value(rng, depth + 1))


def _grown(rng: random.Random) -> str:
    """Return aliases, lists or mappings that grow."""
    num_levels = rng.randint(2, 12)
    match rng.randrange(4):
        case 0:
            levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, num_levels)]
            return "{" + ", ".join(["l0: &l0 [x]", *levels]) + "}"
        case 1:
            levels = [f"l{n}: &l{n} {{<<: [{', '.join([f'*l{n - 1}'] * 9)}]}}" for n in range(1, num_levels)]
            return "{" + ", ".join(["l0: &l0 {a: 1, b: 2}", *levels]) + "}"
        case 2:
            return "[" * 3**num_levels
        case _:
            return "{a: " * 2**num_levels + "1" + "}" * 2**num_levels


def _nested(key: str, value: str) -> str:
    """Return a document of one setting, in lines below each other."""
    parts = key.split(".")
    return "".join(f"{'  ' * depth}{part}:\n" for depth, part in enumerate(parts))[:-1] + f" {value}"


def _mutated(rng: random.Random, text: str) -> str:
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(text) + 1)
        text = text[:start] + rng.choice(SCALARS)[:50] + text[start + rng.randrange(10) :]
    return text


def run_case(case: FuzzCase, folder: Path) -> str:
    """Load a case as the commands do, and return what became of it: "taken" or "refused".

    Raises:
        AssertionError: it was refused in words that are not this package's, or is another after it was written.
        Exception: whatever else is a finding.
    """
    (folder / "base.yaml").write_text(yaml.safe_dump(FEWEST), encoding="utf-8")
    path = folder / "case.yaml"
    path.write_bytes(case.document.encode("utf-8", "surrogatepass"))
    try:
        if case.is_sweep:
            trial_settings(load_sweep(path, case.overrides))
            return "taken"
        config = load_config(path, case.overrides)
        task_of(config.lamp)
    except HydraError as error:
        _check_message(error)
        return "refused"
    assert RunConfig.model_validate_json(config.model_dump_json()) == config
    return "taken"


def _check_message(error: HydraError) -> None:
    message = str(error)
    assert isinstance(error, ConfigError), type(error)
    assert not any(words in message for words in FOREIGN_WORDS), message
    assert max(map(len, message.splitlines())) < LONGEST_LINE, message


@contextmanager
def _in_time(seconds: int) -> Iterator[None]:
    def end(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> int:
    """Run cases; print their outcomes and every finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEGABYTES << 20, MEGABYTES << 20))
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="hydra_ray-fuzz-") as folder:
        for number in range(arguments.cases):
            case = make_case(arguments.seed, number)
            try:
                with _in_time(SECONDS_A_CASE):
                    outcomes[run_case(case, Path(folder))] += 1
            except Exception as error:
                outcomes["findings"] += 1
                print(f"seed {arguments.seed}, case {number}: {type(error).__name__}: {str(error)[:500]}", flush=True)
    told = ", ".join(f"{outcomes[name]} {name}" for name in ("taken", "refused", "findings"))
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{arguments.cases} configurations: {told}; {megabytes} MB at most")
    return int(outcomes["findings"] > 0)


if __name__ == "__main__":
    sys.exit(main())
