"""Completion in bash, zsh and fish: their scripts, and the form in which each is answered.

Input   the variables that a script sets. Output: lines for it, of the items that `complete` found.
Why     a value may have commas (`--state pending,running`) and stand behind an equals sign
        (`--state=pending`), and each shell cuts its line and puts a word back in a way of its own.
"""

from __future__ import annotations

from typing import Any, Final

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ZshComplete,
    add_completion_class,
)

_BASH: Final = """\
%(complete_func)s() {
    local IFS=$' \\t\\n' kind value
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done < <(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" %(complete_var)s=bash_complete "$1")
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""
_ZSH: Final = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local -a answer bare told
    local kind value about
    (( $+commands[%(prog_name)s] )) || return 1
    answer=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT - 1)) \
%(complete_var)s=zsh_complete %(prog_name)s)}")
    # Of `--flag=value` the value alone is completed.
    [[ $words[CURRENT] == --*=* ]] && compset -P '*='
    for kind value about in "${answer[@]}"; do
        case $kind in
            dir) _path_files -/ ;;
            file) _path_files -f ;;
            plain) if [[ -n $about ]]; then told+=("$value:$about"); else bare+=("$value"); fi ;;
        esac
    done
    (( $#told )) && _describe -V %(prog_name)s told
    (( $#bare )) && compadd -V %(prog_name)s -a bare
    return 0
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""
_FISH: Final = """\
function %(complete_func)s
    set -l token (commandline -ct)
    # Of `--flag=value` the value alone is completed.
    set -l flag (string match -r -- '^--[^=]+=' "$token")
    set -l typed (commandline -cp | string collect)
    for line in (env %(complete_var)s=fish_complete COMP_WORDS="$typed" COMP_CWORD="$token" %(prog_name)s)
        set -l item (string split -m 1 , -- $line)
        switch $item[1]
            case dir
                for found in (__fish_complete_directories "$item[2]")
                    echo "$flag$found"
                end
            case file
                for found in (__fish_complete_path "$item[2]")
                    echo "$flag$found"
                end
            case plain
                echo "$flag$item[2]"
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


class _Bash(BashComplete):
    """Its words are cut at `=` too, and the part behind it alone is put back."""

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the last one, and that."""
        args, incomplete = super().get_completion_args()
        behind = zip(args, ["", *args], strict=False)
        return [word for word, flag in behind if word != "=" or not flag.startswith("--")], incomplete


class _Zsh(ZshComplete):
    source_template = _ZSH

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Three lines: its kind, the word, what it is. A colon would end a word of which that is told."""
        about = " ".join((item.help or "").split())
        word = str(item.value)
        return f"{item.type}\n{word.replace(':', chr(92) + ':') if about else word}\n{about}"


class _Fish(FishComplete):
    source_template = _FISH


def install() -> None:
    """Have click answer the shells so."""
    for shell in (_Bash, _Zsh, _Fish):
        add_completion_class(shell)
