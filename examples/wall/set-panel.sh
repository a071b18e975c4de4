#!/bin/sh
# Stands for the program that sets a panel: gets what it shall show on its standard input, prints what it shows.
# The first argument is a directory that stands for the panels; TANIST_NODE names this one.
set -eu
cat > "$1/$TANIST_NODE.new"
mv "$1/$TANIST_NODE.new" "$1/$TANIST_NODE"
cat "$1/$TANIST_NODE"
