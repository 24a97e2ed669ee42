import java.io.BufferedReader;
import java.util.Arrays;
import javax.net.ssl.SSLContext;
import javax.net.ssl.X509TrustManager;
import okhttp3.MediaType;
import okhttp3.OkHttpClient;
import okhttp3.Protocol;
import okhttp3.Request;
import okhttp3.RequestBody;
import okhttp3.Response;

/** Calls with OkHttp, by HTTP/1.1. */
public final class OkHttp implements Client.Other {
    private static final MediaType JSON = MediaType.get("application/json");

    @Override
    public Client.Mode mode(
            String mode, SSLContext tls, X509TrustManager trust, String version) {
        OkHttpClient client =
                new OkHttpClient.Builder()
                        .sslSocketFactory(tls.getSocketFactory(), trust)
                        .protocols(Arrays.asList(Protocol.HTTP_1_1))
                        .build();
        boolean stream = mode.endsWith("stream");
        return name -> {
            Request.Builder request =
                    new Request.Builder()
                            .url(Client.url())
                            .header("x-test-case", name)
                            .post(RequestBody.create(Client.body(stream), JSON));
            if (!Client.behaviour().isEmpty()) {
                request.header("x-test-behaviour", Client.behaviour());
            }
            try (Response answer = client.newCall(request.build()).execute()) {
                BufferedReader reader = new BufferedReader(answer.body().charStream());
                String last = "";
                for (String line = reader.readLine(); line != null; line = reader.readLine()) {
                    last = line.isEmpty() ? last : line;
                }
                Client.check(answer.code(), last);
            }
        };
    }
}
