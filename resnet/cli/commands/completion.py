"""Writes completion for a shell: resnet completion bash > ~/.local/share/bash-completion/completions/resnet

It completes commands, their options, fields of the config, and the names of recipes and studies, as they are
now. zsh takes the same after `autoload -U bashcompinit && bashcompinit`: source it in ~/.zshrc.
"""

from resnet import recipes
from resnet.cli import options as cli
from resnet.errors import InputError, check_choice

SHELLS = ("bash", "zsh")
TEMPLATE = r"""# Completion of `resnet`: written by `resnet completion`.
_resnet() {
    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" option="" start="" words=""
    if [[ $word == --*=* ]]; then  # zsh keeps --name=value together
        option="${word%%=*}" start="${word%%=*}=" word="${word#*=}"
    elif [[ $word == = ]]; then  # bash makes three words of it
        option="$before" word=""
    elif [[ $before == = ]]; then
        option="${COMP_WORDS[COMP_CWORD-2]}"
    elif [[ $COMP_CWORD == 1 ]]; then
        COMPREPLY=($(compgen -W "@commands@" -- "$word"))
        return
    fi
    case "$option" in
        "") if [[ $word == --config.* ]]; then words="@fields@"; else case "${COMP_WORDS[1]}" in
@options@
        esac; fi ;;
        --config|--compare) words="@recipes@" ;;
        --study) words="@studies@" ;;
        --question) words="@questions@" ;;
    esac
    COMPREPLY=($(compgen -P "$start" -W "$words" -- "$word"))
    [[ -n $option || ${#COMPREPLY[@]} == 0 ]] && COMPREPLY+=($(compgen -P "$start" -f -- "$word"))
}
complete -o nospace -F _resnet resnet
"""


def define() -> None:
    """Defines no flags: the shell is named without one."""


def main(overrides: list[str], shells: list[str]) -> None:
    """Prints the completion of the shell."""
    from resnet.analysis.questions import QUESTIONS
    from resnet.cli.main import COMMANDS
    from resnet.config import field_types

    if len(shells) != 1 or overrides:
        raise InputError(f"name one shell: resnet completion {' or '.join(SHELLS)}")
    check_choice("shell", shells[0], SHELLS)
    words = {
        "commands": COMMANDS,
        "fields": [f"--config.{name}=" for name in field_types()],
        "recipes": recipes.names("config"),
        "studies": recipes.names("study"),
        "questions": QUESTIONS,
    }
    text = TEMPLATE.replace("@options@", "\n".join(map(_case, COMMANDS)))
    for place, each in words.items():
        text = text.replace(f"@{place}@", " ".join(each))
    print(text, end="")


def _case(name: str) -> str:
    """The options of a command, as a case of the shell."""
    from resnet.cli.main import load_command

    command = load_command(name)
    with cli.flags_of(command.define):
        flags = [f"--{flag.name}=" for flag in cli.FLAGS.get_key_flags_for_module(command)]
    return f'            {name}) words="{" ".join(flags)}" ;;'
