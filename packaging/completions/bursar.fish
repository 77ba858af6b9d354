function _bursar_completion
    set -l token (commandline -ct)
    # Of `--flag=value` the value alone is completed.
    set -l flag (string match -r -- '^--[^=]+=' "$token")
    set -l typed (commandline -cp | string collect)
    for line in (env _BURSAR_COMPLETE=fish_complete COMP_WORDS="$typed" COMP_CWORD="$token" bursar)
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

complete --no-files --command bursar --arguments "(_bursar_completion)"

