# Recipes for people; CI calls the same script. `just` alone lists them.

_default:
    @just --list

# Start a node in the foreground.
serve *ARGS:
    cargo run --release -- serve {{ARGS}}

# Everything CI checks.
ci:
    .ci/run

# All tests: units, running nodes, real clients.
test *ARGS:
    tests/run {{ARGS}}

# What may happen to a machine, at length: kills, power cuts, full, slow and damaged disks (as root).
faults *ARGS:
    FARMHAND_FAULTS=long cargo test --release --test faults -- --test-threads 1 --nocapture {{ARGS}}

# What may happen to a farm that keeps copies, at length: 200 schedules of kills, cuts, full disks, lost stores
# under load (as root). `FARMHAND_SEED=n FARMHAND_RUNS=1 just chaos` has one of them again.
chaos *ARGS:
    FARMHAND_RUNS="${FARMHAND_RUNS:-200}" cargo test --release --test netns chaos:: -- --test-threads 1 --nocapture {{ARGS}}

# Bazel builds during which a machine is killed, at length (as root).
chaos-builds *ARGS:
    FARMHAND_RUNS="${FARMHAND_RUNS:-50}" cargo test --release --test netns bazel:: -- --test-threads 1 --nocapture {{ARGS}}

# How fast a farm is, at length (as root).
farm-figures:
    FARMHAND_FIGURES=full cargo test --release --test netns figures:: -- --test-threads 1 --nocapture

# Formats and lints only.
lint:
    cargo fmt --all
    cargo clippy --workspace --all-targets -- -D warnings

# Measure a node of its own beside the limits of this machine.
bench *ARGS:
    cargo run --release -- bench {{ARGS}}

# The same, with start-up, memory, and other servers (--peer NAME=ADDR) beside it.
bench-all *ARGS:
    tests/bench/run {{ARGS}}

# What a whole build costs more on a node of this machine than without one.
builds *ARGS:
    cargo build --release
    tests/bench/builds {{ARGS}}

# Half an hour of mixed load: nothing may grow, nothing may be left behind.
soak *ARGS:
    tests/soak/run {{ARGS}}

# Fuzz one of `ls tests/fuzz/targets`; needs `rustup toolchain install nightly` and `cargo install cargo-fuzz`.
fuzz TARGET SECONDS="60":
    tests/fuzz/run {{TARGET}} {{SECONDS}}

# After a change of proto/farmhand/v1/control.proto.
regenerate:
    FARMHAND_REGENERATE=1 cargo test -p farmhand-proto --test generated_is_fresh

# Binary, completions, manual pages, service.
install *ARGS:
    installer/install.sh {{ARGS}}
