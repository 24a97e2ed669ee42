package sun.security.ssl;

import java.io.IOException;
import java.io.InputStream;
import java.io.InterruptedIOException;
import java.nio.ByteBuffer;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.SSLEngineResult;
import javax.net.ssl.SSLException;

/**
 * What the JDK's TLS classes call while they are watched. It is put beside them and stays there: a JVM
 * never forgets it. So it knows nothing but when to call an {@link ObserverTap1}, which can go, and both
 * names have a number, to be raised whenever they change.
 *
 * <p>A method whose plaintext is known only afterwards begins with {@code if (ObserverHook1.enter(this)) return
 * ObserverHook1.read(...)}, and {@code read} calls the method again: this time it is entered.
 */
public final class ObserverHook1 {
    /** Who is told; null while nobody watches. */
    public static volatile ObserverTap1 tap;

    /** The object whose method the thread is in, in a place of its own. */
    private static final ThreadLocal<Object[]> INSIDE = new ThreadLocal<Object[]>();

    private ObserverHook1() {}

    /** Whether the method is to be called by way of this class: it is watched, and it was not yet. */
    public static boolean enter(Object object) {
        if (tap == null) {
            return false;
        }
        try {
            Object[] inside = INSIDE.get();
            if (inside == null) {
                inside = new Object[1];
                INSIDE.set(inside);
            }
            return inside[0] != object;
        } catch (Throwable e) {
            return false;
        }
    }

    /** {@link InputStream#read(byte[], int, int)} of a socket. */
    public static int read(Object socket, InputStream stream, byte[] bytes, int offset, int length)
            throws IOException {
        Object[] inside = INSIDE.get();
        Object outer = inside[0];
        inside[0] = stream;
        int count;
        try {
            count = stream.read(bytes, offset, length);
        } catch (InterruptedIOException e) {
            // A time-out: it can be read again.
            throw e;
        } catch (IOException e) {
            ObserverTap1 tap = ObserverHook1.tap;
            if (tap != null) {
                tap.broken(socket);
            }
            throw e;
        } finally {
            inside[0] = outer;
        }
        ObserverTap1 tap = ObserverHook1.tap;
        if (tap != null) {
            if (count > 0) {
                tap.received(socket, bytes, offset, count);
            } else if (count < 0) {
                tap.peerClosed(socket);
            }
        }
        return count;
    }

    /** Before {@link java.io.OutputStream#write(byte[], int, int)} of a socket. */
    public static void write(Object socket, byte[] bytes, int offset, int length) {
        ObserverTap1 tap = ObserverHook1.tap;
        if (tap != null) {
            tap.sent(socket, bytes, offset, length);
        }
    }

    /** {@link SSLEngine#wrap(ByteBuffer[], int, int, ByteBuffer)}. */
    public static SSLEngineResult wrap(
            SSLEngine engine, ByteBuffer[] from, int offset, int length, ByteBuffer to)
            throws SSLException {
        int[] before = positions(from, offset, length);
        Object[] inside = INSIDE.get();
        Object outer = inside[0];
        inside[0] = engine;
        SSLEngineResult result;
        try {
            result = engine.wrap(from, offset, length, to);
        } finally {
            inside[0] = outer;
        }
        ObserverTap1 tap = ObserverHook1.tap;
        if (tap != null && before != null && result.bytesConsumed() > 0) {
            for (int i = 0; i < length; i++) {
                int now = from[offset + i].position();
                if (now > before[i]) {
                    tap.sent(engine, from[offset + i], before[i], now);
                }
            }
        }
        return result;
    }

    /** {@link SSLEngine#unwrap(ByteBuffer, ByteBuffer[], int, int)}. */
    public static SSLEngineResult unwrap(
            SSLEngine engine, ByteBuffer from, ByteBuffer[] to, int offset, int length)
            throws SSLException {
        int[] before = positions(to, offset, length);
        Object[] inside = INSIDE.get();
        Object outer = inside[0];
        inside[0] = engine;
        SSLEngineResult result;
        try {
            result = engine.unwrap(from, to, offset, length);
        } catch (SSLException e) {
            ObserverTap1 tap = ObserverHook1.tap;
            if (tap != null) {
                tap.broken(engine);
            }
            throw e;
        } finally {
            inside[0] = outer;
        }
        ObserverTap1 tap = ObserverHook1.tap;
        if (tap != null) {
            if (before != null && result.bytesProduced() > 0) {
                for (int i = 0; i < length; i++) {
                    int now = to[offset + i].position();
                    if (now > before[i]) {
                        tap.received(engine, to[offset + i], before[i], now);
                    }
                }
            }
            if (result.getStatus() == SSLEngineResult.Status.CLOSED) {
                tap.peerClosed(engine);
            }
        }
        return result;
    }

    /** Before {@link SSLEngine#closeInbound()}. */
    public static void closeInbound(SSLEngine engine) {
        ObserverTap1 tap = ObserverHook1.tap;
        if (tap != null && !engine.isInboundDone()) {
            // The peer has not said that it sends nothing more.
            tap.broken(engine);
        }
    }

    /** Before {@link SSLEngine#closeOutbound()}. */
    public static void closeOutbound(Object engine) {
        ObserverTap1 tap = ObserverHook1.tap;
        if (tap != null) {
            tap.shutdown(engine);
        }
    }

    /** Before {@link java.net.Socket#close()}. */
    public static void close(Object socket) {
        ObserverTap1 tap = ObserverHook1.tap;
        if (tap != null) {
            tap.closed(socket);
        }
    }

    /** Where the buffers stand; null if that is not for us to find out, as the method itself will say. */
    private static int[] positions(ByteBuffer[] buffers, int offset, int length) {
        try {
            int[] positions = new int[length];
            for (int i = 0; i < length; i++) {
                positions[i] = buffers[offset + i].position();
            }
            return positions;
        } catch (RuntimeException e) {
            return null;
        }
    }
}
