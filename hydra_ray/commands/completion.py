"""Completion of commands, options and configurations in shells, made of the parser of the arguments."""

import argparse
import re
from collections.abc import Iterator, Mapping

SHELLS = ("bash", "zsh", "fish")
_PROGRAM = "hydra-ray"
_BASH = """\
_hydra_ray() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} command="" word words
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case $word in -*) ;; *) command=$word; break ;; esac
  done
  case $command in
{cases}
    *) words="{commands}" ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  if [ -n "$command" ]; then COMPREPLY+=($(compgen -f -- "$cur")); fi
}}
complete -o filenames -F _hydra_ray hydra-ray
"""


def completion_script(shell: str, parser: argparse.ArgumentParser, configurations: list[str]) -> str:
    """Return the script that completes `hydra-ray` in a shell, to be sourced.

    Args:
        shell: one of SHELLS.
        configurations: names of the shipped configurations, which complete where a configuration does.
    """
    commands = _commands(parser)
    if shell == "fish":
        return "\n".join([*_fish_lines(parser, commands, configurations), ""])
    words = {name: _words(each, configurations) for name, each in commands.items()}
    cases = "\n".join(f'    {name}) words="{" ".join(found)}" ;;' for name, found in words.items())
    script = _BASH.format(cases=cases, commands=" ".join([*commands, *_options(parser)]))
    return script if shell == "bash" else f"autoload -U +X bashcompinit && bashcompinit\n{script}"


def _commands(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    return next(each.choices for each in parser._actions if isinstance(each, argparse._SubParsersAction))


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [name for each in parser._actions for name in each.option_strings if name.startswith("--")]


def _words(command: argparse.ArgumentParser, configurations: list[str]) -> list[str]:
    found = _options(command)
    for each in command._actions:
        found += [str(choice) for choice in each.choices or ()]
        found += configurations if "CONFIG" in str(each.metavar) else []
    return list(dict.fromkeys(found))


def _fish_lines(
    parser: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser], configurations: list[str]
) -> Iterator[str]:
    helped = next(each._choices_actions for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    told = {each.dest: _quoted(each.help or "") for each in helped}
    for name in commands:
        yield f"complete -c {_PROGRAM} -n __fish_use_subcommand -a {name} -d '{told.get(name, '')}'"
    for name, command in commands.items():
        here = f"complete -c {_PROGRAM} -n '__fish_seen_subcommand_from {name}'"
        for each in command._actions:
            for option in each.option_strings:
                if option.startswith("--"):
                    yield f"{here} -l {option[2:]} -d '{_quoted(each.help or '')}'"
            if not each.option_strings and (each.choices or "CONFIG" in str(each.metavar)):
                yield f"{here} -a '{' '.join(map(str, each.choices or configurations))}'"


def _quoted(text: str) -> str:
    return re.sub(r"['\\]", " ", text)
