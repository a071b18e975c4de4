# Short names for what people run daily. `just check` is what CI runs.

check:
    bash .ci/run

test:
    cargo test --workspace

dev *args:
    cargo run --release -- dev {{args}}

# Replay one simulated schedule with its trace.
sim seed:
    TANIST_SEED={{seed}} cargo test -p tanist-replication -- --nocapture

# Kill the master twenty times under load, on real processes.
rounds n="20":
    TANIST_ROUNDS={{n}} cargo test -p tanist --test system -- --nocapture
