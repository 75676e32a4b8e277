#!/bin/sh
# Runs the study, or goes on with a demo that was broken off. Usage: demo.sh JAXGEO FOLDER [SETTINGS...]
# A finished demo is left alone: the next one lies beside it, in FOLDER-2, FOLDER-3 and so on. Settings of your own
# have folders of their own: --quick lies in FOLDER-quick.
set -u
jaxgeo=$1 folder=$2
shift 2
if [ $# -gt 0 ]; then
    folder=$folder-$(printf '%s' "$*" | tr -cs 'a-zA-Z0-9.' '-' | sed 's/^-*//; s/-*$//')
fi
next=$folder number=1
while [ -e "$next/report.json" ]; do
    number=$((number + 1)) next=$folder-$number
done
if [ -e "$next/config.json" ]; then
    # The run knows its settings.
    exec "$jaxgeo" study --resume "$next"
fi
exec "$jaxgeo" study --out "$next" "$@"
