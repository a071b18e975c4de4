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

# Known vulnerabilities of dependencies. Needs the network.
advisories:
    cargo deny check advisories

# All licences of what the program is made of, with their texts.
licences:
    cargo about generate --locked about.hbs -o target/licences.html

# A bill of materials (CycloneDX), beside server/Cargo.toml.
sbom:
    cargo cyclonedx --manifest-path server/Cargo.toml --format json --target all --override-filename tanist.cdx
