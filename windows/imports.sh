#!/usr/bin/env bash
# Checks that a program asks of Windows only what Windows 7 SP1 has:
#   windows/imports.sh tanist.exe       every imported function stands in imports.txt
#   windows/imports.sh --self-test      the check refuses what it must refuse
# One function that is missing keeps the program from starting at all, on machines where nobody builds or tests.
set -euo pipefail
list=$(cd "$(dirname "$0")" && pwd)/imports.txt

objdump_for() { # program
    local machine
    machine=$(od -An -tx2 -j $(($(od -An -tu4 -j 60 -N 4 "$1") + 4)) -N 2 "$1" | tr -d ' ')
    case $machine in
        8664) echo x86_64-w64-mingw32-objdump ;;
        014c) echo i686-w64-mingw32-objdump ;;
        *) echo "imports.sh: $1: found machine type '$machine', expected 8664 or 014c" >&2; return 1 ;;
    esac
}

# `dll function` for each import; one by number is `dll #number`, which no list holds.
imports() { # objdump, program
    "$1" -p "$2" | awk '
        /DLL Name: / { dll = tolower($3) }
        dll != "" && $1 ~ /^[0-9a-f]+$/ && $2 ~ /^[0-9a-f]+$/ && NF == 3 {
            print dll, ($3 == "<none>" ? "#" $2 : $3)
        }
    ' | sort -u
}

check() { # program
    local objdump found unknown version
    objdump=$(objdump_for "$1")
    found=$(imports "$objdump" "$1")
    [ -n "$found" ] || { echo "imports.sh: $1: found no imports" >&2; return 1; }
    unknown=$(comm -23 <(echo "$found") <(sed -e 's/ *#.*//' -e '/^$/d' "$list" | sort -u))
    if [ -n "$unknown" ]; then
        echo "$1 needs what isn't known to be in Windows 7 SP1 (windows/imports.txt):" >&2
        echo "$unknown" | sed 's/^/  /' >&2
        return 1
    fi
    # Of the system that it is said to be for: 6.1 is Windows 7.
    version=$("$objdump" -p "$1" | awk '/^Major(Subsystem|OSystem)Version/ { major = $2 }
        /^Minor(Subsystem|OSystem)Version/ { if (major * 100 + $2 > 601) print major "." $2 }')
    [ -z "$version" ] || { echo "$1 is for Windows $version and later, expected 6.1 or less" >&2; return 1; }
    echo "$1: $(echo "$found" | wc -l) functions of $(echo "$found" | cut -d ' ' -f 1 | sort -u | wc -l) libraries, all in Windows 7 SP1"
}

self_test() {
    # Not local: the trap runs after the function has ended.
    dir=$(mktemp -d)
    trap 'rm -r "$dir"' EXIT
    program() { # name, statement, further arguments of the compiler
        printf '#define _WIN32_WINNT 0x0a00\n#include <windows.h>\nint main(void) { %s return 0; }\n' "$2" > "$dir/$1.c"
        x86_64-w64-mingw32-gcc -o "$dir/$1.exe" "$dir/$1.c" "${@:3}"
    }
    refused() { # name, what it must be told of
        if check "$dir/$1.exe" > "$dir/out" 2>&1 || ! grep -q "$2" "$dir/out"; then
            echo "imports.sh: $1 wasn't refused for $2:" >&2
            cat "$dir/out" >&2
            exit 1
        fi
    }
    # What C programs of this compiler need besides, which isn't the matter here.
    program good 'Sleep(0);'
    good=$(imports x86_64-w64-mingw32-objdump "$dir/good.exe")
    { cat "$list"; echo "$good"; } > "$dir/list"
    list=$dir/list
    check "$dir/good.exe"
    # Since Windows 8, each in another way: of an old library, of a new one, of a set.
    program precise 'FILETIME t; GetSystemTimePreciseAsFileTime(&t);'
    refused precise 'kernel32.dll GetSystemTimePreciseAsFileTime'
    program wait 'int a = 0, b = 1; WaitOnAddress(&a, &b, 4, 0);' -lsynchronization
    refused wait 'api-ms-win-core-synch.*WaitOnAddress'
    program later 'Sleep(0);' -Wl,--major-subsystem-version=6,--minor-subsystem-version=2
    refused later 'Windows 6.2'
    head -c 100000 /dev/zero > "$dir/nothing.exe"
    refused nothing 'machine type'
    echo "imports.sh: refuses what it must"
}

case ${1:-} in
    --self-test) self_test ;;
    "") echo "windows/imports.sh: expected a program or --self-test" >&2; exit 2 ;;
    *) check "$1" ;;
esac
