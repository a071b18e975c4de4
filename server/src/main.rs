//! The `tanist` program: see `tanist --help`.

fn main() -> std::process::ExitCode {
    tanist_server::cli::main()
}
