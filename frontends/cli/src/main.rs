//! The `tombolo` binary; everything is in the library beside it.

#![forbid(unsafe_code)]

/// Chunks are large allocations that come and go by the thousand; the system's allocator gives each back to the kernel and faults it in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    tombolo_cli::main()
}
