import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.URL;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.Stream;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.TrustManagerFactory;
import javax.net.ssl.X509TrustManager;

/**
 * Makes calls with the HTTP clients of the JDK, with OkHttp and with an SDK:
 * {@code Client URL MODE,... [--tls VERSION] [--threads N] [--rounds N] [--lines] [--await-agent] [--virtual]
 * [--behaviour TEXT]}. With {@code --lines} each line of standard input is one round; with
 * {@code --await-agent} the first call waits until observer's agent is in the JVM; with {@code --virtual} the
 * threads are virtual ones (Java 21); with {@code --http2} the modes of HttpClient speak that.
 */
public final class Client {
    private static String url;
    private static String behaviour = "";
    private static String version;
    private static int threads = 1;
    private static boolean lines;
    private static boolean awaitAgent;
    private static boolean virtual;
    private static SSLContext tls;
    private static X509TrustManager trust;
    private static HttpClient.Version http = HttpClient.Version.HTTP_1_1;
    private static HttpClient shared;

    /** One way to make a call. */
    interface Mode {
        void call(String name) throws Exception;
    }

    /** A mode of another class, which is given what it needs. */
    interface Other {
        Mode mode(String mode, SSLContext tls, X509TrustManager trust, String version);
    }

    public static void main(String[] arguments) throws Exception {
        url = arguments[0] + "/v1/chat/completions";
        List<String> modes = Arrays.asList(arguments[1].split(","));
        int rounds = 1;
        for (int i = 2; i < arguments.length; i++) {
            switch (arguments[i]) {
                case "--tls": version = arguments[++i]; break;
                case "--threads": threads = Integer.parseInt(arguments[++i]); break;
                case "--rounds": rounds = Integer.parseInt(arguments[++i]); break;
                case "--behaviour": behaviour = arguments[++i]; break;
                case "--lines": lines = true; break;
                case "--await-agent": awaitAgent = true; break;
                case "--virtual": virtual = true; break;
                case "--http2": http = HttpClient.Version.HTTP_2; break;
                default: throw new IllegalArgumentException(arguments[i]);
            }
        }
        trustProvider();
        if (awaitAgent) {
            awaitAgent();
        }
        if (!lines) {
            for (int round = 0; round < rounds; round++) {
                round(modes);
            }
            return;
        }
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        System.out.println("waiting");
        while (input.readLine() != null) {
            round(modes);
            System.out.println("{\"frames\":" + agentFrames() + ",\"thread\":" + agentThread() + "}");
        }
    }

    private static void trustProvider() throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (InputStream file = new FileInputStream(System.getenv("SSL_CERT_FILE"))) {
            store.setCertificateEntry(
                    "ca", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory factory =
                TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        factory.init(store);
        trust = (X509TrustManager) factory.getTrustManagers()[0];
        tls = SSLContext.getInstance(version == null ? "TLS" : version);
        tls.init(null, factory.getTrustManagers(), null);
    }

    private static void round(List<String> modes) throws Exception {
        for (String name : modes) {
            Mode mode = mode(name);
            ExecutorService pool = pool();
            List<Future<Void>> running = new ArrayList<>();
            for (int i = 0; i < threads; i++) {
                running.add(pool.submit((Callable<Void>) () -> {
                    long began = System.nanoTime();
                    mode.call(name);
                    if (!lines) {
                        System.out.println(
                                "{\"case\":\"" + name + "\",\"elapsed_ns\":"
                                        + (System.nanoTime() - began) + "}");
                    }
                    return null;
                }));
            }
            for (Future<Void> one : running) {
                one.get();
            }
            pool.shutdown();
        }
    }

    private static ExecutorService pool() throws Exception {
        return virtual
                ? (ExecutorService)
                        Executors.class
                                .getMethod("newVirtualThreadPerTaskExecutor")
                                .invoke(null)
                : Executors.newFixedThreadPool(threads);
    }

    private static Mode mode(String mode) throws Exception {
        switch (mode) {
            case "http":
                return name -> {
                    HttpResponse<String> answer =
                            client().send(request(name, false), HttpResponse.BodyHandlers.ofString());
                    check(answer.statusCode(), answer.body());
                };
            case "http-async":
                return name -> {
                    CompletableFuture<HttpResponse<String>> future =
                            client().sendAsync(
                                    request(name, false), HttpResponse.BodyHandlers.ofString());
                    HttpResponse<String> answer = future.get();
                    check(answer.statusCode(), answer.body());
                };
            case "http-lines":
                return name -> {
                    HttpResponse<Stream<String>> answer =
                            client().send(request(name, true), HttpResponse.BodyHandlers.ofLines());
                    try (Stream<String> lines = answer.body()) {
                        check(answer.statusCode(), lines.reduce("", (all, line) -> all + line));
                    }
                };
            case "url":
            case "url-stream":
                return name -> urlConnection(name, mode.endsWith("stream"));
            default:
                Other other =
                        (Other)
                                Class.forName(mode.startsWith("okhttp") ? "OkHttp" : "Anthropic")
                                        .getDeclaredConstructor()
                                        .newInstance();
                return other.mode(mode, tls, trust, version);
        }
    }

    private static synchronized HttpClient client() {
        if (shared == null) {
            HttpClient.Builder builder =
                    HttpClient.newBuilder().sslContext(tls).version(http);
            if (version != null) {
                builder.sslParameters(new SSLParameters(null, new String[] {version}));
            }
            shared = builder.build();
        }
        return shared;
    }

    private static HttpRequest request(String name, boolean stream) {
        HttpRequest.Builder builder =
                HttpRequest.newBuilder(URI.create(url))
                        .header("content-type", "application/json")
                        .header("authorization", "Bearer sk-test")
                        .header("x-test-case", name)
                        .POST(HttpRequest.BodyPublishers.ofString(body(stream)));
        if (!behaviour.isEmpty()) {
            builder.header("x-test-behaviour", behaviour);
        }
        return builder.build();
    }

    private static void urlConnection(String name, boolean stream) throws Exception {
        HttpsURLConnection connection = (HttpsURLConnection) new URL(url).openConnection();
        connection.setSSLSocketFactory(tls.getSocketFactory());
        connection.setRequestMethod("POST");
        connection.setRequestProperty("content-type", "application/json");
        connection.setRequestProperty("x-test-case", name);
        if (!behaviour.isEmpty()) {
            connection.setRequestProperty("x-test-behaviour", behaviour);
        }
        connection.setDoOutput(true);
        try (OutputStream out = connection.getOutputStream()) {
            out.write(body(stream).getBytes(StandardCharsets.UTF_8));
        }
        int status = ((HttpURLConnection) connection).getResponseCode();
        StringBuilder all = new StringBuilder();
        try (InputStream in = connection.getInputStream()) {
            byte[] buffer = new byte[999];
            for (int n = in.read(buffer); n >= 0; n = in.read(buffer)) {
                all.append(new String(buffer, 0, n, StandardCharsets.ISO_8859_1));
            }
        }
        check(status, all.toString());
    }

    static String url() {
        return url;
    }

    static String behaviour() {
        return behaviour;
    }

    static String body(boolean stream) {
        return "{\"model\":\"gpt-4o\",\"temperature\":0.5,"
                + (stream ? "\"stream\":true,\"stream_options\":{\"include_usage\":true}," : "")
                + "\"messages\":[{\"role\":\"user\",\"content\":\"How are you?\"}]}";
    }

    static void check(int status, String body) {
        if (status != 200 || body.isEmpty()) {
            throw new IllegalStateException("answered with " + status + ": " + body);
        }
    }

    /** How many calls of the agent's code are on the way to the JDK's own, at a read that times out. */
    private static int agentFrames() throws Exception {
        try (javax.net.ssl.SSLSocket socket =
                (javax.net.ssl.SSLSocket) tls.getSocketFactory().createSocket()) {
            URI address = URI.create(url);
            socket.connect(new java.net.InetSocketAddress(address.getHost(), address.getPort()));
            socket.startHandshake();
            socket.setSoTimeout(1);
            try {
                socket.getInputStream().read(new byte[1], 0, 1);
            } catch (java.net.SocketTimeoutException e) {
                int frames = 0;
                for (StackTraceElement frame : e.getStackTrace()) {
                    frames += frame.getClassName().contains("Observer") ? 1 : 0;
                }
                return frames;
            }
            throw new IllegalStateException("the server spoke first");
        }
    }

    /** Waits for the agent, whose thread starts when all is in its place; goes on without it after a while. */
    private static void awaitAgent() throws InterruptedException {
        long began = System.nanoTime();
        while (!agentThread() && System.nanoTime() - began < 20_000_000_000L) {
            Thread.sleep(5);
        }
    }

    private static boolean agentThread() {
        for (Thread thread : Thread.getAllStackTraces().keySet()) {
            if (thread.getName().equals("observer")) {
                return true;
            }
        }
        return false;
    }
}
