//! The BPF programs of observer: uprobes on the functions of a TLS library through which plaintext
//! passes, tracepoints for the life of processes, and for system calls on sockets.
//!
//! Uprobe programs can be preempted, and another thread can then run the same program on the same
//! CPU. So state lies in maps under the thread or the connection, counters are atomic, and plaintext goes
//! straight into the ring buffer, or through a place per CPU that one program at a time can take.

#![no_std]
#![no_main]
// For atomic addition; see `maps::lost`.
#![feature(asm_experimental_arch)]

mod aead;
mod calls;
mod connection;
mod emit;
mod go;
mod goroutines;
mod java;
mod maps;
mod plaintext;
mod process;
mod python;
mod registers;
mod request;
mod rustls;
mod sockets;
mod syscalls;
mod tls;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The helpers that the programs call are for GPL-compatible programs only, which the sources are by
/// their second licence (LICENSE-GPL-2.0). The kernel knows the names in include/linux/license.h.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
