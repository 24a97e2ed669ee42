package observer.agent1;

import java.nio.ByteBuffer;

/**
 * The native library: observer-java/native/lib.rs. It belongs to the class loader of this class, and is
 * unloaded with it.
 */
final class Native {
    private Native() {}

    /** Whether somebody watches: the kernel counts the probes. */
    static native boolean probed();

    /** Shows bytes of an array. */
    static native void array(long connection, int direction, byte[] bytes, int offset, int length);

    /** Shows bytes of a direct buffer. */
    static native void direct(
            long connection, int direction, ByteBuffer buffer, int offset, int length);

    /** Says how a connection ended. */
    static native void end(long connection, int kind);
}
