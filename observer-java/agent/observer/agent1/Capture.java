package observer.agent1;

import java.io.File;
import java.lang.instrument.ClassFileTransformer;
import java.lang.instrument.Instrumentation;
import java.lang.instrument.UnmodifiableClassException;
import java.nio.ByteBuffer;
import java.security.ProtectionDomain;
import java.util.ArrayList;
import java.util.List;
import sun.security.ssl.ObserverHook1;
import sun.security.ssl.ObserverTap1;

/**
 * Shows the plaintext of the JDK's TLS to whoever has probed the native library. It begins when it is
 * loaded, and ends by itself when the probes are gone, by whatever end the prober came to: the classes
 * are as they were then, and nothing refers to this one any more.
 */
public final class Capture extends ObserverTap1 implements ClassFileTransformer, Runnable {
    /** Directions and ends, as observer_common has them. */
    static final int SENT = 0;

    static final int RECEIVED = 1;
    static final int FREE = 2;
    static final int SHUTDOWN = 3;
    static final int PEER_CLOSED = 4;
    static final int BROKEN = 5;

    /** How often the probes are looked for, in milliseconds. */
    private static final long LOOK_MS = 500;

    private final Instrumentation instrumentation;
    private final Connections connections = new Connections();
    private final List<Class<?>> classes = new ArrayList<Class<?>>();

    /** A class that could not be changed, and why. */
    private volatile Throwable failure;

    private Capture(Instrumentation instrumentation) {
        this.instrumentation = instrumentation;
    }

    /** Begins to watch, by the library in {@code folder}. */
    public static void start(String folder, Instrumentation instrumentation) throws Exception {
        System.load(new File(folder, "libobserver_java.so").getPath());
        if (!Native.probed()) {
            throw new IllegalStateException("the native library is not probed");
        }
        new Capture(instrumentation).start();
    }

    private void start() throws Exception {
        // While classes are loaded by TLS itself it is too late to load these.
        Class<?> loaded = Connections.class;
        for (String name :
                new String[] {"Connections", "Connections$Connection", "Connections$Sought"}) {
            Class.forName("observer.agent1." + name, true, loaded.getClassLoader());
        }
        for (Rewriter.Place place : Rewriter.PLACES) {
            try {
                Class<?> found =
                        Class.forName(place.type.replace('/', '.'), false, null);
                if (!classes.contains(found)) {
                    classes.add(found);
                }
            } catch (ClassNotFoundException e) {
                // Another JDK has it elsewhere; which are missed is seen below.
            }
        }
        synchronized (ObserverHook1.class) {
            if (ObserverHook1.tap != null) {
                throw new IllegalStateException("another observer watches this JVM already");
            }
            instrumentation.addTransformer(this, true);
            try {
                retransform();
                if (failure != null) {
                    throw new IllegalStateException("this JDK's TLS is not known: " + failure);
                }
                Rewriter.requireAll(classes);
                // Before the first connection is looked up in a hurry.
                connections.remove(connections.of(this));
                Thread thread = new Thread(null, this, "observer", 0);
                thread.setDaemon(true);
                thread.setContextClassLoader(null);
                ObserverHook1.tap = this;
                thread.start();
            } catch (Throwable e) {
                restore();
                throw new IllegalStateException(e.toString(), e);
            }
        }
    }

    /** Waits until the probes are gone. */
    @Override
    public void run() {
        try {
            while (Native.probed()) {
                Thread.sleep(LOOK_MS);
                connections.forget();
            }
        } catch (Throwable e) {
            // An end as good as the other.
        }
        synchronized (ObserverHook1.class) {
            restore();
        }
    }

    private void restore() {
        ObserverHook1.tap = null;
        instrumentation.removeTransformer(this);
        try {
            retransform();
        } catch (Throwable e) {
            // The calls stay, and come to nothing.
        }
    }

    private void retransform() throws UnmodifiableClassException {
        instrumentation.retransformClasses(classes.toArray(new Class<?>[0]));
    }

    @Override
    public byte[] transform(
            ClassLoader loader,
            String name,
            Class<?> type,
            ProtectionDomain domain,
            byte[] bytes) {
        if (loader != null || type == null || !classes.contains(type)) {
            return null;
        }
        try {
            return Rewriter.rewrite(name, bytes);
        } catch (Throwable e) {
            failure = e;
            return null;
        }
    }

    @Override
    public void sent(Object connection, byte[] bytes, int offset, int length) {
        show(connection, SENT, bytes, offset, length);
    }

    @Override
    public void sent(Object connection, ByteBuffer buffer, int from, int to) {
        show(connection, SENT, buffer, from, to);
    }

    @Override
    public void received(Object connection, byte[] bytes, int offset, int length) {
        show(connection, RECEIVED, bytes, offset, length);
    }

    @Override
    public void received(Object connection, ByteBuffer buffer, int from, int to) {
        show(connection, RECEIVED, buffer, from, to);
    }

    @Override
    public void peerClosed(Object object) {
        try {
            Connections.Connection connection = connections.of(object);
            if (!connection.peerClosed) {
                connection.peerClosed = true;
                Native.end(connection.number, PEER_CLOSED);
            }
            if (connection.shutdown) {
                closed(object);
            }
        } catch (Throwable e) {
            // The program goes on.
        }
    }

    @Override
    public void broken(Object object) {
        try {
            Native.end(connections.of(object).number, BROKEN);
        } catch (Throwable e) {
            // The program goes on.
        }
    }

    @Override
    public void shutdown(Object object) {
        try {
            Connections.Connection connection = connections.of(object);
            if (!connection.shutdown) {
                connection.shutdown = true;
                Native.end(connection.number, SHUTDOWN);
            }
            if (connection.peerClosed) {
                closed(object);
            }
        } catch (Throwable e) {
            // The program goes on.
        }
    }

    @Override
    public void closed(Object object) {
        try {
            Connections.Connection connection = connections.remove(object);
            if (connection != null) {
                Native.end(connection.number, FREE);
            }
        } catch (Throwable e) {
            // The program goes on.
        }
    }

    private void show(Object object, int direction, byte[] bytes, int offset, int length) {
        try {
            // What the method itself will refuse is not shown.
            if (offset >= 0 && length > 0 && length <= bytes.length - offset) {
                Native.array(connections.of(object).number, direction, bytes, offset, length);
            }
        } catch (Throwable e) {
            // The program goes on.
        }
    }

    private void show(Object object, int direction, ByteBuffer buffer, int from, int to) {
        try {
            long number = connections.of(object).number;
            if (buffer.isDirect()) {
                Native.direct(number, direction, buffer, from, to - from);
            } else if (buffer.hasArray()) {
                int offset = buffer.arrayOffset() + from;
                Native.array(number, direction, buffer.array(), offset, to - from);
            } else {
                ByteBuffer copy = buffer.duplicate();
                copy.limit(to).position(from);
                byte[] bytes = new byte[to - from];
                copy.get(bytes);
                Native.array(number, direction, bytes, 0, bytes.length);
            }
        } catch (Throwable e) {
            // The program goes on.
        }
    }
}
