package observer.agent1;

import java.lang.ref.Reference;
import java.lang.ref.ReferenceQueue;
import java.lang.ref.WeakReference;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicLong;

/** A number for each socket or engine, and what has been said of its end. Keeps none of them alive. */
final class Connections {
    private final ConcurrentHashMap<Object, Connection> known =
            new ConcurrentHashMap<Object, Connection>();
    private final ReferenceQueue<Object> collected = new ReferenceQueue<Object>();
    private final AtomicLong numbers = new AtomicLong();

    /** The connection of an object. */
    Connection of(Object object) {
        Connection connection = known.get(new Sought(object));
        if (connection == null) {
            forget();
            Connection added = new Connection(object, collected, numbers.incrementAndGet());
            connection = known.putIfAbsent(added, added);
            if (connection == null) {
                connection = added;
            }
        }
        return connection;
    }

    /** The connection of an object, if it has one, which it has no longer then. */
    Connection remove(Object object) {
        return known.remove(new Sought(object));
    }

    /** Lets go of connections that were never closed. */
    void forget() {
        for (Reference<?> gone = collected.poll(); gone != null; gone = collected.poll()) {
            if (known.remove(gone) != null) {
                Native.end(((Connection) gone).number, Capture.FREE);
            }
        }
    }

    /** A connection, which is also its own key. */
    static final class Connection extends WeakReference<Object> {
        final long number;
        /** The peer has closed it. */
        volatile boolean peerClosed;
        /** The process has closed its side. */
        volatile boolean shutdown;

        private final int hash;

        Connection(Object object, ReferenceQueue<Object> queue, long number) {
            super(object, queue);
            this.number = number;
            hash = System.identityHashCode(object);
        }

        @Override
        public int hashCode() {
            return hash;
        }

        @Override
        public boolean equals(Object other) {
            if (other == this) {
                return true;
            }
            Object object = get();
            return object != null
                    && (other instanceof Connection && ((Connection) other).get() == object
                            || other instanceof Sought && ((Sought) other).object == object);
        }
    }

    /** What a connection is looked up by. */
    private static final class Sought {
        private final Object object;

        Sought(Object object) {
            this.object = object;
        }

        @Override
        public int hashCode() {
            return System.identityHashCode(object);
        }

        @Override
        public boolean equals(Object other) {
            return other instanceof Connection && ((Connection) other).get() == object;
        }
    }
}
