#!/bin/sh
# Passes when its data file is where Bazel promises it, and the scratch directory can be written.
set -eu
grep -q 'carried by the runfiles' data.txt
echo scratch > "$TEST_TMPDIR/scratch"
echo "undeclared output" > "$TEST_UNDECLARED_OUTPUTS_DIR/note.txt"
