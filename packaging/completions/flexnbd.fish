# SPDX-License-Identifier: GPL-3.0-or-later
#
# Completion of flexnbd for fish. It asks the flexnbd that is being typed, so it knows just
# the verbs and options that this one has.

function __flexnbd_complete
    set -l words (commandline -opc)
    set -l last (commandline -ct)
    # As flexnbd would get it; a quote that is still open stays.
    set -l plain (string unescape -- $last)
    or set plain $last
    command -q -- $words[1] # fish tells of one that is not there whatever becomes of its errors
    or return
    set -l answer (command $words[1] complete-words $words[2..-1] "$plain" 2>/dev/null)
    set -q answer[1]
    or return
    set -l head (string split \t -- $answer[1])
    set -l path (string sub -s (math (string length -- "$head[2]") + 1) -- "$plain")
    switch $head[1]
        case words
            printf '%s\n' $answer[2..-1]
        case files
            __fish_complete_path "$path" | string replace -r '^' -- "$head[2]"
        case directories
            __fish_complete_directories "$path" | string replace -r '^' -- "$head[2]"
    end
end

complete -c flexnbd -f -a '(__flexnbd_complete)'
