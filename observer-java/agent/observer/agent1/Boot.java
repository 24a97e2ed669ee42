package observer.agent1;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.lang.instrument.Instrumentation;
import java.lang.reflect.Method;
import java.util.Collections;
import java.util.Map;
import java.util.Set;
import java.util.jar.JarFile;

/**
 * Puts the hook beside the JDK's TLS classes. From Java 9 on it is defined there: to lengthen the boot class
 * path would make a JVM write a warning to standard output, and do without shared class data.
 *
 * <p>It speaks by reflection of what Java 8 does not have.
 */
public final class Boot {
    private static final String PACKAGE = "sun.security.ssl";

    /** What others are made of comes first. */
    private static final String[] CLASSES = {"ObserverTap1", "ObserverHook1"};

    private Boot() {}

    /** Begins to watch; {@code folder} holds the archives and the native library. */
    public static void start(String folder, Instrumentation instrumentation) throws Exception {
        Class<?> ssl = Class.forName(PACKAGE + ".SSLSocketImpl", false, null);
        JarFile archive = new JarFile(new File(folder, "boot.jar"));
        try {
            Method getModule;
            try {
                getModule = Class.class.getMethod("getModule");
            } catch (NoSuchMethodException e) {
                if (!isDefined()) {
                    instrumentation.appendToBootstrapClassLoaderSearch(archive);
                }
                getModule = null;
            }
            if (getModule != null) {
                open(getModule.invoke(ssl), getModule.invoke(Boot.class), instrumentation);
                if (!isDefined()) {
                    define(ssl, archive);
                }
            }
        } finally {
            archive.close();
        }
        Capture.start(folder, instrumentation);
    }

    private static boolean isDefined() {
        try {
            Class.forName(PACKAGE + "." + CLASSES[CLASSES.length - 1], true, null);
            return true;
        } catch (ClassNotFoundException e) {
            return false;
        }
    }

    /** Lets our module use, and add to, the package of a module. */
    private static void open(Object module, Object own, Instrumentation instrumentation)
            throws Exception {
        Class<?> type = Class.forName("java.lang.Module");
        Map<String, Set<Object>> opened =
                Collections.singletonMap(PACKAGE, Collections.singleton(own));
        Instrumentation.class
                .getMethod(
                        "redefineModule",
                        type,
                        Set.class,
                        Map.class,
                        Map.class,
                        Set.class,
                        Map.class)
                .invoke(
                        instrumentation,
                        module,
                        Collections.emptySet(),
                        opened,
                        opened,
                        Collections.emptySet(),
                        Collections.emptyMap());
    }

    private static void define(Class<?> neighbour, JarFile archive) throws Exception {
        Class<?> handles = Class.forName("java.lang.invoke.MethodHandles");
        Class<?> lookup = Class.forName("java.lang.invoke.MethodHandles$Lookup");
        // Who asks is whoever calls it, and by reflection that is this class.
        Object own = handles.getMethod("lookup").invoke(null);
        Object theirs =
                handles.getMethod("privateLookupIn", Class.class, lookup)
                        .invoke(null, neighbour, own);
        Method defineClass = lookup.getMethod("defineClass", byte[].class);
        for (String name : CLASSES) {
            String path = PACKAGE.replace('.', '/') + "/" + name + ".class";
            defineClass.invoke(theirs, (Object) bytes(archive.getInputStream(archive.getEntry(path))));
        }
    }

    private static byte[] bytes(InputStream in) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        byte[] buffer = new byte[8192];
        for (int n = in.read(buffer); n >= 0; n = in.read(buffer)) {
            bytes.write(buffer, 0, n);
        }
        in.close();
        return bytes.toByteArray();
    }
}
