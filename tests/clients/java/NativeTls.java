import io.netty.bootstrap.Bootstrap;
import io.netty.buffer.Unpooled;
import io.netty.channel.Channel;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.SimpleChannelInboundHandler;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.nio.NioSocketChannel;
import io.netty.handler.codec.http.DefaultFullHttpRequest;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpClientCodec;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpMethod;
import io.netty.handler.codec.http.HttpObjectAggregator;
import io.netty.handler.codec.http.HttpVersion;
import io.netty.handler.ssl.SslContext;
import io.netty.handler.ssl.SslContextBuilder;
import io.netty.handler.ssl.SslProvider;
import java.io.File;
import java.io.FileInputStream;
import java.io.InputStream;
import java.net.URI;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.Provider;
import java.security.cert.CertificateFactory;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import org.conscrypt.Conscrypt;

/**
 * Makes calls through TLS libraries that come as native code in a jar, and prints what it saw as JSON lines.
 *
 * <pre>NativeTls URL netty|conscrypt COUNT [wait]</pre>
 */
public final class NativeTls {
    private static final String PATH = "/v1/chat/completions";

    private interface Call {
        int make(String name, String body) throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        String url = arguments[0];
        String ca = System.getenv("SSL_CERT_FILE");
        Call call = arguments[1].equals("netty") ? netty(url, ca) : conscrypt(url, ca);
        // A library that is loaded late is found within milliseconds, or more where the machine is busy.
        Thread.sleep(1000);
        if (arguments.length > 3) {
            System.out.println("waiting");
            System.in.read();
        }
        for (int number = 0; number < Integer.parseInt(arguments[2]); number++) {
            for (boolean stream : new boolean[] {false, true}) {
                String name = "case/" + stream + "/" + number;
                String body = "{\"model\":\"gpt-4o\",\"stream\":" + stream
                    + ",\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}";
                long started = System.nanoTime();
                int status = call.make(name, body);
                System.out.println("{\"case\":\"" + name + "\",\"status\":" + status
                    + ",\"elapsed_ns\":" + (System.nanoTime() - started) + "}");
            }
        }
        System.exit(0);
    }

    /** One connection, on which a call follows another. */
    private static Call netty(String url, String ca) throws Exception {
        SslContext context = SslContextBuilder.forClient()
            .sslProvider(SslProvider.OPENSSL)
            .trustManager(new File(ca))
            .build();
        BlockingQueue<Integer> answers = new LinkedBlockingQueue<>();
        URI address = URI.create(url);
        Channel[] channel = new Channel[1];
        return (name, body) -> {
            if (channel[0] == null) {
                channel[0] = new Bootstrap()
                    .group(new NioEventLoopGroup(1))
                    .channel(NioSocketChannel.class)
                    .handler(new ChannelInitializer<Channel>() {
                        @Override
                        protected void initChannel(Channel channel) {
                            channel.pipeline()
                                .addLast(context.newHandler(channel.alloc(), address.getHost(), address.getPort()))
                                .addLast(new HttpClientCodec())
                                .addLast(new HttpObjectAggregator(1 << 24))
                                .addLast(new SimpleChannelInboundHandler<FullHttpResponse>() {
                                    @Override
                                    protected void channelRead0(ChannelHandlerContext on, FullHttpResponse answer) {
                                        answers.add(answer.status().code());
                                    }
                                });
                        }
                    })
                    .connect(address.getHost(), address.getPort())
                    .sync()
                    .channel();
            }
            DefaultFullHttpRequest request = new DefaultFullHttpRequest(HttpVersion.HTTP_1_1, HttpMethod.POST, PATH,
                Unpooled.copiedBuffer(body, StandardCharsets.UTF_8));
            request.headers()
                .set(HttpHeaderNames.HOST, "localhost")
                .set(HttpHeaderNames.CONTENT_TYPE, "application/json")
                .set("x-test-case", name)
                .setInt(HttpHeaderNames.CONTENT_LENGTH, request.content().readableBytes());
            channel[0].writeAndFlush(request).sync();
            Integer status = answers.poll(20, TimeUnit.SECONDS);
            return status == null ? 0 : status;
        };
    }

    private static Call conscrypt(String url, String ca) throws Exception {
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null, null);
        try (InputStream file = new FileInputStream(ca)) {
            trusted.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        Provider provider = Conscrypt.newProviderBuilder().provideTrustManager(true).build();
        TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX", provider);
        trust.init(trusted);
        SSLContext context = SSLContext.getInstance("TLS", provider);
        context.init(null, trust.getTrustManagers(), null);
        return (name, body) -> {
            HttpsURLConnection connection = (HttpsURLConnection) new URL(url + PATH).openConnection();
            connection.setSSLSocketFactory(context.getSocketFactory());
            connection.setRequestMethod("POST");
            connection.setDoOutput(true);
            connection.setRequestProperty("content-type", "application/json");
            connection.setRequestProperty("x-test-case", name);
            connection.getOutputStream().write(body.getBytes(StandardCharsets.UTF_8));
            try (InputStream answer = connection.getInputStream()) {
                answer.readAllBytes();
            }
            return connection.getResponseCode();
        };
    }
}
