package observer.agent1;

import java.io.File;
import java.io.FileOutputStream;
import java.io.OutputStreamWriter;
import java.io.Writer;
import java.lang.instrument.Instrumentation;
import java.net.URL;
import java.net.URLClassLoader;

/**
 * Where the JVM comes in. A JVM keeps this class, and takes it from the first archive that had it, so it
 * does nothing but to load the others by a class loader that can be forgotten. Its package has a number,
 * to be raised whenever it changes.
 */
public final class Agent {
    private Agent() {}

    /**
     * Called by the JVM. {@code folder} holds the archives and the native library; what comes of it is
     * written into its file {@code status}.
     */
    public static void agentmain(String folder, Instrumentation instrumentation) {
        String status;
        try {
            URL[] archives = {new File(folder, "agent.jar").toURI().toURL()};
            // The boot class path is all that it needs, and this class is not to be found by it here.
            URLClassLoader loader = new URLClassLoader(archives, null);
            try {
                loader.loadClass("observer.agent1.Boot")
                        .getMethod("start", String.class, Instrumentation.class)
                        .invoke(null, folder, instrumentation);
            } finally {
                // All of its classes are loaded by now, and the archive goes.
                loader.close();
            }
            status = "on";
        } catch (Throwable e) {
            Throwable cause = e;
            while (cause.getCause() != null) {
                cause = cause.getCause();
            }
            StackTraceElement[] frames = cause.getStackTrace();
            status = cause + (frames.length == 0 ? "" : " at " + frames[0]);
        }
        try {
            Writer file =
                    new OutputStreamWriter(
                            new FileOutputStream(new File(folder, "status")), "UTF-8");
            file.write(status);
            file.close();
        } catch (Throwable e) {
            // Then nobody waits for it any more.
        }
    }
}
