//! The native library of the Java agent: it brings plaintext to one place, where a uprobe may stand.
//!
//! It needs no other library, so it works with any libc. `OBSERVER_JAVA_PROBES` is the reference counter of the uprobes
//! (`ref_ctr_offset` of Documentation/trace/uprobetracer.rst): the kernel counts in it the probes that
//! stand in this process, and takes back what a prober counted that was killed. While it is 0, nothing is
//! copied.

#![no_std]

use core::{arch::naked_asm, ffi::c_void, mem::MaybeUninit, ptr::addr_of};

/// Bytes of an array that are shown at once. They lie on the stack, of which a JVM keeps more free for
/// native methods (`StackShadowPages`); the JDK's own take as much.
const CHUNK_BYTES: usize = 8 * 1024;

/// Indexes in the table of functions (Java Native Interface Specification, chapter 4).
const GET_BYTE_ARRAY_REGION: usize = 200;
const GET_DIRECT_BUFFER_ADDRESS: usize = 230;

/// Pages of a file on which nothing else lies: the kernel finds the counter by its offset in the file, and
/// the file's other pages may be mapped more than once.
#[repr(C)]
#[cfg_attr(target_arch = "x86_64", repr(align(4096)))]
#[cfg_attr(not(target_arch = "x86_64"), repr(align(65536)))]
pub struct Counter(u16);

/// See above. It lies in a section of the file: memory without one cannot be counted in.
#[unsafe(no_mangle)]
#[used]
#[unsafe(link_section = ".probes")]
pub static mut OBSERVER_JAVA_PROBES: Counter = Counter(0);

/// Shows `bytes` bytes at `address`. Its first instruction is one that the kernel emulates.
///
/// # Safety
///
/// None is needed.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn observer_java_data(
    connection: i64,
    direction: i32,
    address: *const u8,
    bytes: usize,
) {
    naked_asm!("nop", "ret")
}

/// Shows how a connection ended.
///
/// # Safety
///
/// None is needed.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn observer_java_end(connection: i64, kind: i32) {
    naked_asm!("nop", "ret")
}

/// `JNIEnv *`
type Env = *const *const *const c_void;
type Object = *mut c_void;

/// Whether a probe stands.
fn probed() -> bool {
    // SAFETY: the static is valid and aligned; only the kernel writes it.
    unsafe { addr_of!(OBSERVER_JAVA_PROBES.0).read_volatile() != 0 }
}

/// `Native.probed`
#[unsafe(no_mangle)]
pub extern "system" fn Java_observer_agent1_Native_probed(_: Env, _: Object) -> u8 {
    u8::from(probed())
}

/// `Native.array`
///
/// # Safety
///
/// To be called by a JVM.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn Java_observer_agent1_Native_array(
    env: Env,
    _: Object,
    connection: i64,
    direction: i32,
    array: Object,
    offset: i32,
    length: i32,
) {
    type GetByteArrayRegion = unsafe extern "system" fn(Env, Object, i32, i32, *mut u8);
    if !probed() {
        return;
    }
    let mut chunk = MaybeUninit::<[u8; CHUNK_BYTES]>::uninit();
    // SAFETY: the table of functions is as the specification has it.
    let copy = unsafe {
        let function = (*env).add(GET_BYTE_ARRAY_REGION).read();
        core::mem::transmute::<*const c_void, GetByteArrayRegion>(function)
    };
    let mut done = 0;
    while done < length {
        let bytes = (length - done).min(CHUNK_BYTES as i32);
        // SAFETY: `chunk` has room for `bytes`; the JVM checks the rest. Where it is refused the caller has
        // checked it before.
        unsafe {
            copy(
                env,
                array,
                offset + done,
                bytes,
                chunk.as_mut_ptr().cast::<u8>(),
            );
            observer_java_data(
                connection,
                direction,
                chunk.as_ptr().cast::<u8>(),
                bytes as usize,
            );
        }
        done += bytes;
    }
}

/// `Native.direct`
///
/// # Safety
///
/// To be called by a JVM.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn Java_observer_agent1_Native_direct(
    env: Env,
    _: Object,
    connection: i64,
    direction: i32,
    buffer: Object,
    offset: i32,
    length: i32,
) {
    type GetDirectBufferAddress = unsafe extern "system" fn(Env, Object) -> *const u8;
    if !probed() {
        return;
    }
    // SAFETY: as above.
    unsafe {
        let function = (*env).add(GET_DIRECT_BUFFER_ADDRESS).read();
        let address =
            core::mem::transmute::<*const c_void, GetDirectBufferAddress>(function)(env, buffer);
        if !address.is_null() {
            observer_java_data(
                connection,
                direction,
                address.wrapping_offset(offset as isize),
                length as usize,
            );
        }
    }
}

/// `Native.end`
#[unsafe(no_mangle)]
pub extern "system" fn Java_observer_agent1_Native_end(
    _: Env,
    _: Object,
    connection: i64,
    kind: i32,
) {
    if probed() {
        // SAFETY: it does nothing.
        unsafe { observer_java_end(connection, kind) };
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
