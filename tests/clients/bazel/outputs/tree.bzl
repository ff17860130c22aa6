"""Rules that make a directory as one output, and that read one as one input."""

def _tree_impl(ctx):
    directory = ctx.actions.declare_directory(ctx.label.name)
    ctx.actions.run_shell(
        outputs = [directory],
        mnemonic = "Tree",
        command = """
set -eu
mkdir -p "$1"  # Only its parent is promised to be there.
cd "$1"
shift
for leaf in "$@"; do
    mkdir -p "$(dirname "$leaf")"
    echo "$leaf" > "$leaf"
done
printf '#!/bin/sh\\necho climbed\\n' > climb.sh
chmod 755 climb.sh
ln -s oak/acorn.txt shortcut
""",
        arguments = [directory.path] + ctx.attr.leaves,
    )
    return [DefaultInfo(files = depset([directory]))]

tree = rule(
    implementation = _tree_impl,
    attrs = {"leaves": attr.string_list(mandatory = True)},
    doc = "A directory with a file for every leaf, an executable and a link.",
)

def _listing_impl(ctx):
    output = ctx.actions.declare_file(ctx.label.name + ".txt")
    directory = ctx.files.tree[0]
    ctx.actions.run_shell(
        inputs = [directory],
        outputs = [output],
        mnemonic = "Listing",
        command = """
set -eu
directory=$1
output=$PWD/$2
cd "$directory"
{
    find . -name '*.txt' | LC_ALL=C sort
    cat shortcut
    ./climb.sh
} > "$output"
""",
        arguments = [directory.path, output.path],
    )
    return [DefaultInfo(files = depset([output]))]

listing = rule(
    implementation = _listing_impl,
    attrs = {"tree": attr.label(mandatory = True)},
    doc = "The text files of a directory, what its link reads and what its executable prints.",
)
