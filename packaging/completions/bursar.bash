_bursar_completion() {
    local IFS=$' \t\n' kind value
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done < <(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" _BURSAR_COMPLETE=bash_complete "$1")
}

complete -o nosort -F _bursar_completion bursar

