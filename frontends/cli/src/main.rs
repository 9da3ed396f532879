//! The `tombolo` binary; everything is in the library beside it.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    tombolo_cli::main()
}
