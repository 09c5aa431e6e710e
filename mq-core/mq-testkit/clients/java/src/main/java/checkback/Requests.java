package checkback;

import static checkback.Stage.body;
import static checkback.Stage.holds;
import static checkback.Stage.isOk;
import static checkback.Stage.listener;
import static checkback.Stage.message;
import static checkback.Stage.same;

import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.exception.RequestTimeoutException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.RequestCallback;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.message.Message;

/** Request and reply: a message whose sender waits for the answer of its consumer. */
final class Requests {
    private static final long PATIENCE_MILLIS = 40_000;

    private Requests() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("request-reply", Requests::reply);
        all.put("request-without-reply", Requests::noReply);
    }

    /** A consumer that answers every request with its body in capitals. */
    private static void answering(Stage stage) throws Exception {
        var producer = stage.producer();
        isOk(producer.send(message(stage.topic(), "warmup", "warmup")));
        var consumer = stage.consumer(stage.group("answering"), stage.topic(), "ask");
        consumer.registerMessageListener(listener(request -> {
            try {
                byte[] answer = body(request).toUpperCase().getBytes(StandardCharsets.UTF_8);
                isOk(producer.send(MessageUtil.createReplyMessage(request, answer), 10_000));
            } catch (Exception failure) {
                throw new IllegalStateException(failure);
            }
        }));
        consumer.start();
    }

    private static void reply(Stage stage) throws Exception {
        answering(stage);
        // A client of its own, as a service that asks another one is.
        var asking = stage.asking();
        for (int i = 0; i < 5; i++) {
            var reply = ask(stage, asking, "hello" + i, PATIENCE_MILLIS);
            same("reply", "HELLO" + i, body(reply.get(PATIENCE_MILLIS, TimeUnit.MILLISECONDS)));
        }
    }

    /** By callback, and only a reply counts: 5.3.3 takes "sent" for the reply, and calls back with null first. */
    private static CompletableFuture<Message> ask(Stage stage, DefaultMQProducer asking, String text, long millis)
            throws Exception {
        var replied = new CompletableFuture<Message>();
        asking.request(message(stage.topic(), "ask", text), new RequestCallback() {
            @Override
            public void onSuccess(Message reply) {
                if (reply != null) {
                    replied.complete(reply);
                }
            }

            @Override
            public void onException(Throwable failure) {
                replied.completeExceptionally(failure);
            }
        }, millis);
        return replied;
    }

    private static void noReply(Stage stage) throws Exception {
        var asking = stage.asking();
        isOk(asking.send(message(stage.topic(), "warmup", "warmup")));
        try {
            ask(stage, asking, "hello", 1_000).get(PATIENCE_MILLIS, TimeUnit.MILLISECONDS);
        } catch (ExecutionException failed) {
            holds(failed.getCause() instanceof RequestTimeoutException, "a timeout, not " + failed.getCause());
            return;
        }
        throw new AssertionError("somebody replied");
    }
}
