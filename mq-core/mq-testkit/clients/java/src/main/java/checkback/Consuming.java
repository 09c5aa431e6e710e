package checkback;

import static checkback.Stage.bodies;
import static checkback.Stage.body;
import static checkback.Stage.eventually;
import static checkback.Stage.eventuallySame;
import static checkback.Stage.holds;
import static checkback.Stage.isOk;
import static checkback.Stage.listener;
import static checkback.Stage.message;
import static checkback.Stage.same;
import static checkback.Stage.stays;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.selector.SelectMessageQueueByHash;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Push consumers: filters, order, sharing, broadcast, retry and the dead-letter topic. */
final class Consuming {
    private Consuming() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("consume-tags", Consuming::tags);
        all.put("consume-orderly", Consuming::orderly);
        all.put("consume-broadcast", Consuming::broadcast);
        all.put("consume-shared", Consuming::shared);
        all.put("consume-resume", Consuming::resume);
        all.put("consume-retry-dead-letter", Consuming::retryThenDeadLetter);
        all.put("consume-orderly-dead-letter", Consuming::orderlyDeadLetter);
        all.put("consume-long-poll", Consuming::longPoll);
        all.put("consume-before-topic", Consuming::beforeTopic);
    }

    private static TreeSet<String> send(Stage stage, String prefix, int count) throws Exception {
        var producer = stage.producer();
        var sent = new TreeSet<String>();
        for (int i = 0; i < count; i++) {
            isOk(producer.send(message(stage.topic(), "tag", prefix + i)));
            sent.add(prefix + i);
        }
        producer.shutdown();
        return sent;
    }

    /** A consumer that is there first, alone: nothing but its group leads it to a broker, which tells it of the topic. */
    private static void beforeTopic(Stage stage) throws Exception {
        var seen = stage.reads(stage.topic(), "*");
        // Longer than the client takes to say that it is there, so that it is not helped by its own first questions.
        Thread.sleep(3_000);
        long sending = System.nanoTime();
        send(stage, "m", 1);
        eventuallySame("messages", List.of("m0"), () -> bodies(seen));
        System.out.printf("consume-before-topic: the first message came after %d ms%n", (System.nanoTime() - sending) / 1_000_000);
    }

    private static void tags(Stage stage) throws Exception {
        var producer = stage.producer();
        var wanted = new TreeSet<String>();
        for (int i = 0; i < 30; i++) {
            String tag = List.of("red", "green", "blue").get(i % 3);
            isOk(producer.send(message(stage.topic(), tag, tag + "-" + i)));
            if (!"blue".equals(tag)) {
                wanted.add(tag + "-" + i);
            }
        }
        // "Aa" and "BB" have one hash: the broker's index cannot tell them apart, the consumer must.
        isOk(producer.send(message(stage.topic(), "Aa", "twin-Aa")));
        isOk(producer.send(message(stage.topic(), "BB", "twin-BB")));
        isOk(producer.send(new Message(stage.topic(), "untagged".getBytes())));
        var seen = stage.reads(stage.topic(), "red || green");
        var twin = stage.reads(stage.topic(), "Aa");
        eventuallySame("messages", List.copyOf(wanted), () -> bodies(seen));
        eventuallySame("one of two tags with one hash", List.of("twin-Aa"), () -> bodies(twin));
        stays("messages", List.copyOf(wanted), () -> bodies(seen), 500);
    }

    private static void orderly(Stage stage) throws Exception {
        var producer = stage.producer();
        int keys = 6;
        int each = 20;
        for (int i = 0; i < keys * each; i++) {
            Message message = message(stage.topic(), "tag", (i % keys) + ":" + (i / keys));
            isOk(producer.send(message, new SelectMessageQueueByHash(), i % keys));
        }
        Map<String, List<Integer>> order = new ConcurrentHashMap<>();
        Map<Integer, AtomicInteger> inside = new ConcurrentHashMap<>();
        var overlaps = new AtomicInteger();
        var suspended = new AtomicInteger();
        var group = stage.group("orderly");
        for (int member = 0; member < 2; member++) {
            var consumer = stage.consumer(group, stage.topic(), "*");
            consumer.setSuspendCurrentQueueTimeMillis(100);
            consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
                AtomicInteger busy = inside.computeIfAbsent(context.getMessageQueue().getQueueId(), q -> new AtomicInteger());
                if (busy.incrementAndGet() > 1) {
                    overlaps.incrementAndGet();
                }
                try {
                    for (MessageExt message : messages) {
                        String[] parts = body(message).split(":");
                        if ("7".equals(parts[1]) && message.getReconsumeTimes() == 0) {
                            suspended.incrementAndGet();
                            return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
                        }
                        order.computeIfAbsent(parts[0], k -> new ArrayList<>()).add(Integer.parseInt(parts[1]));
                    }
                    return ConsumeOrderlyStatus.SUCCESS;
                } finally {
                    busy.decrementAndGet();
                }
            });
            consumer.start();
        }
        eventually("all messages", () -> order.values().stream().mapToInt(List::size).sum() >= keys * each);
        List<Integer> counted = IntStream.range(0, each).boxed().toList();
        for (int key = 0; key < keys; key++) {
            same("order of key " + key, counted, order.get(Integer.toString(key)));
        }
        same("two at once in a queue", 0, overlaps.get());
        holds(suspended.get() >= keys, "suspended messages came again: " + suspended);
    }

    private static void broadcast(Stage stage) throws Exception {
        var sent = send(stage, "broadcast-", 20);
        var group = stage.group("broadcast");
        var readers = new ArrayList<ConcurrentLinkedQueue<MessageExt>>();
        for (int member = 0; member < 2; member++) {
            var seen = new ConcurrentLinkedQueue<MessageExt>();
            var consumer = stage.consumer(group, stage.topic(), "*");
            consumer.setMessageModel(named(consumer.getMessageModel(), "BROADCASTING"));
            consumer.registerMessageListener(listener(seen::add));
            consumer.start();
            readers.add(seen);
        }
        for (var seen : readers) {
            eventuallySame("messages at each member", List.copyOf(sent), () -> bodies(seen));
        }
    }

    /** The kind that is called so: 4.9 and 5 keep this enumeration in different packages. */
    private static <E extends Enum<E>> E named(E like, String name) {
        return Enum.valueOf(like.getDeclaringClass(), name);
    }

    /** Two members share the queues, the second one joins while the first one works. */
    private static void shared(Stage stage) throws Exception {
        var producer = stage.producer();
        isOk(producer.send(message(stage.topic(), "tag", "shared-first")));
        var group = stage.group("shared");
        var seen = List.of(new ConcurrentLinkedQueue<MessageExt>(), new ConcurrentLinkedQueue<MessageExt>());
        var members = new ArrayList<DefaultMQPushConsumer>();
        for (int member = 0; member < 2; member++) {
            var consumer = stage.consumer(group, stage.topic(), "*");
            consumer.registerMessageListener(listener(seen.get(member)::add));
            consumer.start();
            members.add(consumer);
            if (member == 0) {
                eventually("the first member reads", () -> !seen.get(0).isEmpty());
            }
        }
        // By notification at once; a busy machine may take the client a rebalance round of 20 s.
        var sent = new TreeSet<>(List.of("shared-first"));
        long joined = System.nanoTime();
        for (int i = 0; seen.get(1).isEmpty(); i++) {
            holds(System.nanoTime() - joined < 45_000_000_000L, "the second member gets queues within 45 s");
            isOk(producer.send(message(stage.topic(), "tag", "shared-" + i)));
            sent.add("shared-" + i);
            Thread.sleep(50);
        }
        // The second one may take a queue before the first one has heard that it has to give it.
        eventually("no queue is read by both", () -> Collections.disjoint(
                queues(members.get(0), stage.topic()), queues(members.get(1), stage.topic())));
        for (int i = 0; i < 40; i++) {
            isOk(producer.send(message(stage.topic(), "tag", "settled-" + i)));
            sent.add("settled-" + i);
        }
        eventuallySame("messages", List.copyOf(sent), () -> {
            var union = new TreeSet<>(bodies(seen.get(0)));
            union.addAll(bodies(seen.get(1)));
            return List.copyOf(union);
        });
        long settled = seen.stream().flatMap(ConcurrentLinkedQueue::stream).filter(m -> body(m).startsWith("settled")).count();
        same("each settled message at one member", 40L, settled);
        holds(bodies(seen.get(0)).stream().anyMatch(b -> b.startsWith("settled")), "the first member still works");
    }

    /** Those that a member reads now. */
    private static Set<MessageQueue> queues(DefaultMQPushConsumer member, String topic) {
        var table = member.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable();
        return table.keySet().stream().filter(queue -> queue.getTopic().equals(topic)).collect(Collectors.toSet());
    }

    /** A group goes on where it stopped. */
    private static void resume(Stage stage) throws Exception {
        var first = send(stage, "one-", 20);
        var group = stage.group("resume");
        var seen = new ConcurrentLinkedQueue<MessageExt>();
        var consumer = stage.consumer(group, stage.topic(), "*");
        consumer.registerMessageListener(listener(seen::add));
        consumer.start();
        eventuallySame("first half", List.copyOf(first), () -> bodies(seen));
        consumer.shutdown();
        var second = send(stage, "two-", 20);
        var again = new ConcurrentLinkedQueue<MessageExt>();
        var successor = stage.consumer(group, stage.topic(), "*");
        successor.registerMessageListener(listener(again::add));
        successor.start();
        eventuallySame("second half", List.copyOf(second), () -> bodies(again));
        stays("second half", List.copyOf(second), () -> bodies(again), 500);
    }

    private static void retryThenDeadLetter(Stage stage) throws Exception {
        send(stage, "poison-", 1);
        var group = stage.group("retry");
        var attempts = new ConcurrentLinkedQueue<Integer>();
        var ids = new ConcurrentLinkedQueue<String>();
        var consumer = stage.consumer(group, stage.topic(), "*");
        consumer.setMaxReconsumeTimes(2);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            context.setDelayLevelWhenNextConsume(1);
            for (MessageExt message : messages) {
                attempts.add(message.getReconsumeTimes());
                ids.add(message.getMsgId() + " " + message.getTopic() + " " + body(message));
            }
            return ConsumeConcurrentlyStatus.RECONSUME_LATER;
        });
        consumer.start();
        eventuallySame("attempts", List.of(0, 1, 2), () -> List.copyOf(attempts));
        same("one message, one topic", 1, new TreeSet<>(ids).size());
        eventually("the dead-letter topic is there", () -> hasRoute(stage, "%DLQ%" + group));
        var dead = stage.reads("%DLQ%" + group, "*");
        eventuallySame("dead letters", List.of("poison-0"), () -> bodies(dead));
        same("where it comes from", stage.topic(), dead.iterator().next().getProperty(MessageConst.PROPERTY_RETRY_TOPIC));
        stays("attempts", List.of(0, 1, 2), () -> List.copyOf(attempts), 1500);
    }

    private static void orderlyDeadLetter(Stage stage) throws Exception {
        send(stage, "stuck-", 1);
        var group = stage.group("orderly");
        var attempts = new AtomicInteger();
        var consumer = stage.consumer(group, stage.topic(), "*");
        consumer.setMaxReconsumeTimes(1);
        consumer.setSuspendCurrentQueueTimeMillis(100);
        consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
            attempts.incrementAndGet();
            return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
        });
        consumer.start();
        eventually("the dead-letter topic is there", () -> hasRoute(stage, "%DLQ%" + group));
        var dead = stage.reads("%DLQ%" + group, "*");
        eventuallySame("dead letters", List.of("stuck-0"), () -> bodies(dead));
        same("attempts", 2, attempts.get());
    }

    private static boolean hasRoute(Stage stage, String topic) {
        try {
            var probe = stage.producer();
            try {
                return !probe.fetchPublishMessageQueues(topic).isEmpty();
            } finally {
                probe.shutdown();
            }
        } catch (MQClientException absent) {
            return false;
        } catch (Exception failure) {
            throw new AssertionError(failure);
        }
    }

    /** A waiting consumer gets a message when it is stored, not when its poll ends. */
    private static void longPoll(Stage stage) throws Exception {
        var producer = stage.producer();
        isOk(producer.send(message(stage.topic(), "tag", "warm-up")));
        var seen = stage.reads(stage.topic(), "*");
        eventually("warm-up", () -> seen.size() == 1);
        var waits = new ArrayList<Long>();
        for (int i = 0; i < 10; i++) {
            int expected = seen.size() + 1;
            Thread.sleep(100);
            long sent = System.nanoTime();
            isOk(producer.send(message(stage.topic(), "tag", "poll-" + i)));
            eventually("message " + i, () -> seen.size() == expected);
            waits.add((System.nanoTime() - sent) / 1_000_000);
        }
        long median = waits.stream().sorted().toList().get(5);
        holds(median < 500, "a held pull is answered at once; milliseconds: " + waits);
    }
}
