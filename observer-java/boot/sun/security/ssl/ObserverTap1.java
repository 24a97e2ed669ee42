package sun.security.ssl;

import java.nio.ByteBuffer;

/** What {@link ObserverHook1} tells of the TLS connections. Nothing here throws. */
public abstract class ObserverTap1 {
    /** The process is about to write these bytes. */
    public abstract void sent(Object connection, byte[] bytes, int offset, int length);

    /** As {@link #sent(Object, byte[], int, int)}: the bytes of a buffer between two positions. */
    public abstract void sent(Object connection, ByteBuffer buffer, int from, int to);

    /** The process has read these bytes. */
    public abstract void received(Object connection, byte[] bytes, int offset, int length);

    /** As {@link #received(Object, byte[], int, int)}: the bytes of a buffer between two positions. */
    public abstract void received(Object connection, ByteBuffer buffer, int from, int to);

    /** The peer sends nothing more. */
    public abstract void peerClosed(Object connection);

    /** The connection failed. */
    public abstract void broken(Object connection);

    /** The process sends nothing more. */
    public abstract void shutdown(Object connection);

    /** The process has done with the connection. */
    public abstract void closed(Object connection);
}
