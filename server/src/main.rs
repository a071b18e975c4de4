//! The `tanist` program.

fn main() -> std::process::ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let path = std::env::args().nth(3).unwrap();
    match runtime.block_on(tanist_server::commands::run(std::path::Path::new(&path))) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => { eprintln!("tanist: {error:#}"); std::process::ExitCode::FAILURE }
    }
}
