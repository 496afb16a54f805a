# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=bash
#
# Completion of flexnbd for bash. It asks the flexnbd that is being typed, so it knows just
# the verbs and options that this one has.

# bash splits words at the characters of COMP_WORDBREAKS, such as = and : , too. This
# puts them together again and takes quotes and backslashes away, up to the cursor.
_flexnbd_words() {
	local i word line=${COMP_LINE:0:COMP_POINT} c quote
	words=()
	for ((i = 0; i <= COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		# What follows without a space belongs to the word before.
		if [[ $i -gt 0 && $line != [[:space:]]* && $line != "" ]]; then
			words[${#words[@]} - 1]+=$word
		else
			words+=("$word")
		fi
		line=${line#"${line%%[![:space:]]*}"}
		line=${line:${#word}}
	done
	for i in "${!words[@]}"; do
		line=${words[i]} word='' quote=''
		while [[ $line ]]; do
			c=${line:0:1} line=${line:1}
			case $quote$c in
			\\ | \"\\) word+=${line:0:1} line=${line:1} ;;
			\" | \') quote=$c ;;
			\"\" | \'\') quote='' ;;
			*) word+=$c ;;
			esac
		done
		words[i]=$word
	done
}

_flexnbd() {
	local words=() answer=() what prefix item rest breaks IFS=$' \t\n'
	_flexnbd_words
	local cur=${words[${#words[@]} - 1]}
	local program=${1:-flexnbd}
	COMPREPLY=()
	# shellcheck disable=SC2088 # it is what was typed
	[[ $program != '~/'* ]] || program=$HOME/${program:2}
	mapfile -t answer < <("$program" complete-words "${words[@]:1}" 2>/dev/null)
	[[ ${#answer[@]} -gt 0 ]] || return 0
	IFS=$'\t' read -r what prefix <<<"${answer[0]}"

	# What bash takes for a word of its own behind the last = or : is all that it replaces.
	breaks=${COMP_WORDBREAKS//[[:space:]\"\']/}
	rest=''
	if [[ $breaks && $cur == *["$breaks"]* ]]; then
		rest=${cur%"${cur##*["$breaks"]}"}
	fi

	case $what in
	words)
		for item in "${answer[@]:1}"; do
			item=${item%%$'\t'*}
			COMPREPLY+=("${item#"$rest"}")
		done
		;;
	files | directories)
		compopt -o filenames 2>/dev/null
		local option=-f path=${cur#"$prefix"}
		[[ $what == files ]] || option=-d
		while IFS= read -r item; do
			item=$prefix$item
			COMPREPLY+=("${item#"$rest"}")
		done < <(compgen "$option" -- "$path")
		;;
	esac
	return 0
}

complete -F _flexnbd flexnbd
