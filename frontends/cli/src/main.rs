//! The `tombolo` binary; everything is in the library beside it.

fn main() -> std::process::ExitCode {
    tombolo_cli::main()
}
