// Sends numbered records with Java's fluency. See ../README.md for the command line.

import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.Instant;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.atomic.AtomicReference;

import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLSocketFactory;
import javax.net.ssl.TrustManagerFactory;

import org.komamitsu.fluency.EventTime;
import org.komamitsu.fluency.Fluency;
import org.komamitsu.fluency.fluentd.FluencyBuilderForFluentd;

public class Send {
    /** How long the last records may take, in seconds. */
    private static final int FLUSH_MAX = 120;

    public static void main(String[] args) throws Exception {
        Map<String, String> options = new HashMap<>();
        for (int i = 0; i < args.length; i++) {
            boolean flag = Set.of("--ack", "--event-time").contains(args[i]);
            options.put(args[i], flag ? "" : args[++i]);
        }
        if (!options.getOrDefault("--mode", "packed").equals("packed")) {
            throw new IllegalArgumentException("no such mode: " + options.get("--mode"));
        }
        String stream = options.get("--stream");
        int tags = Integer.parseInt(options.getOrDefault("--tags", "1"));
        int count = Integer.parseInt(options.get("--count"));

        AtomicReference<Throwable> error = new AtomicReference<>();
        FluencyBuilderForFluentd builder = new FluencyBuilderForFluentd();
        builder.setAckResponseMode(options.containsKey("--ack"));
        builder.setErrorHandler(error::set);
        // A server that restarts is away for some seconds.
        builder.setSenderMaxRetryCount(100);
        builder.setSenderMaxRetryIntervalMillis(500);
        String ca = System.getenv("WEIR_TEST_CA");
        if (ca != null) {
            builder.setSslEnabled(true);
            builder.setSslSocketFactory(trusting(Path.of(ca)));
        }
        try (Fluency fluency = builder.build("127.0.0.1", Integer.parseInt(options.get("--port")))) {
            for (int seq = 0; seq < count; seq++) {
                Map<String, Object> record = new LinkedHashMap<>();
                record.put("stream", stream);
                record.put("seq", seq);
                record.put("message", "java event " + seq + " of " + stream);
                String tag = options.get("--tag-prefix") + "." + seq % tags;
                Instant now = Instant.now();
                if (options.containsKey("--event-time")) {
                    fluency.emit(tag, EventTime.fromEpoch((int) now.getEpochSecond(), now.getNano()), record);
                } else {
                    fluency.emit(tag, now.getEpochSecond(), record);
                }
            }
            fluency.flush();
            if (!fluency.waitUntilAllBufferFlushed(FLUSH_MAX)) {
                throw new IllegalStateException("not all was sent within " + FLUSH_MAX + " s");
            }
        }
        if (error.get() != null) {
            throw new IllegalStateException(error.get());
        }
        System.out.println("sent " + count);
    }

    private static SSLSocketFactory trusting(Path ca) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (InputStream pem = Files.newInputStream(ca)) {
            store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context.getSocketFactory();
    }
}
