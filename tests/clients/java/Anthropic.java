import com.anthropic.client.AnthropicClient;
import com.anthropic.client.okhttp.AnthropicOkHttpClient;
import com.anthropic.core.http.StreamResponse;
import com.anthropic.models.messages.MessageCreateParams;
import com.anthropic.models.messages.RawMessageStreamEvent;
import java.net.URI;
import javax.net.ssl.SSLContext;
import javax.net.ssl.X509TrustManager;

/** Calls with Anthropic's SDK. */
public final class Anthropic implements Client.Other {
    @Override
    public Client.Mode mode(
            String mode, SSLContext tls, X509TrustManager trust, String version) {
        AnthropicClient client =
                AnthropicOkHttpClient.builder()
                        .baseUrl(URI.create(Client.url()).resolve("/").toString())
                        .apiKey("sk-ant-test")
                        .sslSocketFactory(tls.getSocketFactory())
                        .trustManager(trust)
                        .build();
        return name -> {
            MessageCreateParams question =
                    MessageCreateParams.builder()
                            .model("claude-sonnet-5")
                            .maxTokens(100)
                            .addUserMessage("How are you?")
                            .putAdditionalHeader("x-test-case", name)
                            .build();
            if (mode.endsWith("stream")) {
                try (StreamResponse<RawMessageStreamEvent> events =
                        client.messages().createStreaming(question)) {
                    Client.check(events.stream().count() > 0 ? 200 : 0, mode);
                }
            } else {
                Client.check(200, client.messages().create(question).id());
            }
        };
    }
}
