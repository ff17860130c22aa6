#!/bin/sh
# Fails with a line on each stream, which the client must show.
echo "shell test: the answer is 41"
echo "shell test: expected 42" >&2
exit 7
