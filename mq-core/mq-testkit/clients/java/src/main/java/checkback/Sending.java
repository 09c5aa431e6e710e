package checkback;

import static checkback.Stage.bodies;
import static checkback.Stage.body;
import static checkback.Stage.eventually;
import static checkback.Stage.eventuallySame;
import static checkback.Stage.holds;
import static checkback.Stage.isOk;
import static checkback.Stage.message;
import static checkback.Stage.persistently;
import static checkback.Stage.same;
import static checkback.Stage.sorted;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentLinkedQueue;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageExt;

/** Every way of sending, and that what arrives is what was sent. */
final class Sending {
    private Sending() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("send-sync", Sending::sync);
        all.put("send-async", Sending::async);
        all.put("send-oneway", Sending::oneway);
        all.put("send-batch", Sending::batch);
        all.put("send-delayed", Sending::delayed);
        all.put("send-large", Sending::large);
        all.put("pull", Sending::pull);
    }

    private static void sync(Stage stage) throws Exception {
        var producer = stage.producer();
        var sent = new TreeSet<String>();
        Map<Integer, Long> next = new HashMap<>();
        SendResult last = null;
        for (int i = 0; i < 40; i++) {
            Message message = message(stage.topic(), "tag", "sync-" + i + "-消息");
            message.putUserProperty("number", Integer.toString(i));
            last = producer.send(message);
            isOk(last);
            int queue = last.getMessageQueue().getQueueId();
            same("dense offset in queue " + queue, next.getOrDefault(queue, 0L), last.getQueueOffset());
            next.put(queue, last.getQueueOffset() + 1);
            sent.add(body(message));
        }
        holds(next.size() > 1, "messages spread over queues: " + next);
        MessageExt viewed = producer.viewMessage(stage.topic(), last.getOffsetMsgId());
        same("body viewed by id", "sync-39-消息", body(viewed));

        var seen = stage.reads(stage.topic(), "*");
        eventuallySame("messages", List.copyOf(sent), () -> bodies(seen));
        for (MessageExt message : seen) {
            String body = body(message);
            same("keys", "key-" + body, message.getKeys());
            same("tags", "tag", message.getTags());
            same("user property", body.split("-")[1], message.getUserProperty("number"));
            same("topic", stage.topic(), message.getTopic());
            holds(message.getBornTimestamp() > 0 && message.getStoreTimestamp() > 0, "timestamps of " + message);
        }
        same("unique ids", sent.size(), new HashSet<>(seen.stream().map(MessageExt::getMsgId).toList()).size());
    }

    private static void async(Stage stage) throws Exception {
        var producer = stage.producer();
        isOk(producer.send(message(stage.topic(), "tag", "async-first")));
        var done = new ConcurrentLinkedQueue<SendResult>();
        var failed = new ConcurrentLinkedQueue<Throwable>();
        var sent = new TreeSet<>(List.of("async-first"));
        for (int i = 0; i < 200; i++) {
            sent.add("async-" + i);
            producer.send(message(stage.topic(), "tag", "async-" + i), new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    done.add(result);
                }

                @Override
                public void onException(Throwable failure) {
                    failed.add(failure);
                }
            });
        }
        eventually("200 callbacks", () -> done.size() + failed.size() == 200);
        same("failures", List.of(), List.copyOf(failed));
        done.forEach(Stage::isOk);
        var seen = stage.reads(stage.topic(), "*");
        eventuallySame("messages", List.copyOf(sent), () -> bodies(seen));
    }

    private static void oneway(Stage stage) throws Exception {
        var producer = stage.producer();
        isOk(producer.send(message(stage.topic(), "tag", "oneway-first")));
        var sent = new TreeSet<>(List.of("oneway-first"));
        for (int i = 0; i < 100; i++) {
            sent.add("oneway-" + i);
            producer.sendOneway(message(stage.topic(), "tag", "oneway-" + i));
        }
        var seen = stage.reads(stage.topic(), "*");
        eventuallySame("messages", List.copyOf(sent), () -> bodies(seen));
    }

    private static void batch(Stage stage) throws Exception {
        var producer = stage.producer();
        isOk(producer.send(message(stage.topic(), "tag", "batch-first")));
        var batch = new ArrayList<Message>();
        var sent = new TreeSet<>(List.of("batch-first"));
        for (int i = 0; i < 50; i++) {
            batch.add(message(stage.topic(), i % 2 == 0 ? "even" : "odd", "batch-" + i));
            sent.add("batch-" + i);
        }
        SendResult result = producer.send(batch);
        isOk(result);
        same("an offset id for each", 50, result.getOffsetMsgId().split(",").length);
        same("a unique id for each", 50, sorted(List.of(result.getMsgId().split(","))).size());

        var seen = stage.reads(stage.topic(), "*");
        eventuallySame("messages", List.copyOf(sent), () -> bodies(seen));
        var even = stage.reads(stage.topic(), "even");
        eventually("tags work in a batch", () -> even.size() == 25);
    }

    private static void delayed(Stage stage) throws Exception {
        var producer = stage.producer();
        isOk(producer.send(message(stage.topic(), "tag", "now")));
        var seen = stage.reads(stage.topic(), "*");
        eventually("the first", () -> seen.size() == 1);
        Map<String, Long> due = new HashMap<>();
        for (int level = 1; level <= 2; level++) {
            Message message = message(stage.topic(), "tag", "level-" + level);
            message.setDelayTimeLevel(level);
            message.putUserProperty("mine", "kept");
            long at = System.currentTimeMillis();
            isOk(producer.send(message));
            due.put(body(message), at + level * 1000L);
        }
        while (seen.size() < 3) {
            int before = seen.size();
            eventually("delayed messages", () -> seen.size() > before);
        }
        for (MessageExt message : seen) {
            Long at = due.get(body(message));
            if (at != null) {
                long late = message.getStoreTimestamp() - at;
                holds(late >= -5 && late < 5000, body(message) + " became visible " + late + " ms after it was due");
                same("user property", "kept", message.getUserProperty("mine"));
                same("topic", stage.topic(), message.getTopic());
            }
        }
    }

    /** Bodies over 4 KiB travel compressed; bodies over the limit are refused with an error, and the connection lives on. */
    private static void large(Stage stage) throws Exception {
        var producer = stage.producer();
        String text = "0123456789abcdef".repeat(64 * 1024);
        isOk(producer.send(new Message(stage.topic(), "tag", "text", text.getBytes(StandardCharsets.US_ASCII))));
        byte[] noise = new byte[3 << 20];
        new Random(7).nextBytes(noise);
        isOk(producer.send(new Message(stage.topic(), "tag", "noise", noise)));
        var seen = stage.reads(stage.topic(), "*");
        eventually("both", () -> seen.size() == 2);
        for (MessageExt message : seen) {
            boolean equal = message.getBody().length == noise.length
                ? Arrays.equals(noise, message.getBody()) : text.equals(body(message));
            holds(equal, "the body of " + message.getBody().length + " bytes is what was sent");
        }
        producer.setMaxMessageSize(16 << 20);
        producer.setRetryTimesWhenSendFailed(0);
        byte[] over = new byte[(4 << 20) + 4096];
        new Random(8).nextBytes(over);
        try {
            SendResult result = producer.send(new Message(stage.topic(), "tag", "over", over));
            throw new AssertionError("more than 4 MiB were accepted: " + result);
        } catch (MQBrokerException refused) {
            same("response code", 13, refused.getResponseCode());
        }
        isOk(producer.send(message(stage.topic(), "tag", "after")));
        eventually("the next", () -> seen.size() == 3);
    }

    private static void pull(Stage stage) throws Exception {
        var producer = stage.producer();
        var sent = new TreeSet<String>();
        for (int i = 0; i < 30; i++) {
            isOk(producer.send(message(stage.topic(), "tag", "pull-" + i)));
            sent.add("pull-" + i);
        }
        var consumer = new DefaultLitePullConsumer(stage.group("pull"));
        consumer.setAutoCommit(false);
        stage.started(consumer);
        var queues = persistently(() -> consumer.fetchMessageQueues(stage.topic()));
        consumer.assign(queues);
        for (var queue : queues) {
            persistently(() -> {
                consumer.seekToBegin(queue);
                return null;
            });
        }
        var seen = new ArrayList<MessageExt>();
        eventually("messages", () -> {
            seen.addAll(consumer.poll(200));
            return seen.size() >= sent.size();
        });
        same("messages", List.copyOf(sent), bodies(seen));
        for (var queue : queues) {
            same("end by time in " + queue, (long) seen.stream().filter(m -> m.getQueueId() == queue.getQueueId()).count(),
                persistently(() -> consumer.offsetForTimestamp(queue, System.currentTimeMillis() + 60_000L)));
            same("begin by time in " + queue, 0L, persistently(() -> consumer.offsetForTimestamp(queue, 1L)));
        }
        same("message headers carry an id", 30L, seen.stream()
            .filter(m -> m.getProperty(MessageConst.PROPERTY_UNIQ_CLIENT_MESSAGE_ID_KEYIDX) != null).count());
    }
}
