package checkback;

import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.Collection;
import java.util.Deque;
import java.util.List;
import java.util.Objects;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.function.BooleanSupplier;
import java.util.function.Consumer;
import java.util.function.Supplier;
import org.apache.rocketmq.client.ClientConfig;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.remoting.exception.RemotingException;

/** What a scenario stands on: names of its own, clients that are stopped at its end, and waiting without guessing. */
final class Stage implements AutoCloseable {
    private static final int WAIT_SECONDS = 120;
    /** Of a call to a broker or name server; a busy machine may take more than the client's own 3 s. */
    static final int CALL_MILLIS = 30_000;

    private final String nameServer;
    private final String name;
    private final String run = Long.toString(System.currentTimeMillis(), 36);
    private final Deque<Runnable> stops = new ArrayDeque<>();

    Stage(String nameServer, String name) {
        this.nameServer = nameServer;
        this.name = name.replace('-', '_');
    }

    String topic() {
        return "t_" + name + "_" + run;
    }

    String group(String role) {
        return "g_" + name + "_" + role + "_" + run;
    }

    DefaultMQProducer producer() throws Exception {
        var producer = new DefaultMQProducer(group("producer"));
        started(producer);
        return producer;
    }

    /** A producer of a client of its own: replies find it by its client id. */
    DefaultMQProducer asking() throws Exception {
        var producer = new DefaultMQProducer(group("asking"));
        producer.setInstanceName(name + "_" + run + "_asking");
        started(producer);
        return producer;
    }

    TransactionMQProducer transactionProducer(TransactionListener listener) throws Exception {
        var producer = new TransactionMQProducer(group("transaction"));
        producer.setTransactionListener(listener);
        started(producer);
        return producer;
    }

    void started(DefaultMQProducer producer) throws Exception {
        prepare(producer);
        producer.setSendMsgTimeout(CALL_MILLIS);
        producer.start();
        stops.push(producer::shutdown);
    }

    /** A consumer that fetches messages itself: from the first one on. */
    void started(DefaultLitePullConsumer consumer) throws Exception {
        prepare(consumer);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.start();
        stops.push(consumer::shutdown);
    }

    /** A consumer from the first message on, not started: the scenario adds its listener. */
    DefaultMQPushConsumer consumer(String group, String topic, String tags) throws Exception {
        var consumer = new DefaultMQPushConsumer(group);
        prepare(consumer);
        // A connection of its own for each member, in broadcast mode too.
        consumer.setInstanceName(name + "_" + run + "_" + stops.size());
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setConsumeThreadMin(4);
        consumer.setConsumeThreadMax(4);
        consumer.subscribe(topic, tags);
        stops.push(consumer::shutdown);
        return consumer;
    }

    /** Everything that a new group sees of a topic, as it comes in. */
    Collection<MessageExt> reads(String topic, String tags) throws Exception {
        var seen = new ConcurrentLinkedQueue<MessageExt>();
        var consumer = consumer(group("reader" + stops.size()), topic, tags);
        consumer.registerMessageListener(listener(seen::add));
        consumer.start();
        return seen;
    }

    static MessageListenerConcurrently listener(Consumer<MessageExt> each) {
        return (messages, context) -> {
            messages.forEach(each);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        };
    }

    /** What every client needs before it starts: a call that takes too long closes the connection under all others. */
    void prepare(ClientConfig client) {
        client.setNamesrvAddr(nameServer);
        client.setMqClientApiTimeout(CALL_MILLIS);
    }

    interface Call<T> {
        T go() throws MQClientException;
    }

    /**
     * What the client does not repeat itself. Some of its calls give a broker 5 s, whatever is set; one whose time is over
     * closes the connection, and all others on it fail: the one that is tried again, too, if it meets the same connection.
     */
    static <T> T persistently(Call<T> call) throws Exception {
        for (int triesLeft = 4; ; triesLeft--) {
            try {
                return call.go();
            } catch (MQClientException failed) {
                if (triesLeft == 0 || !(failed.getCause() instanceof RemotingException)) {
                    throw failed;
                }
                System.err.printf("once more after %s%n", failed);
                Thread.sleep(200);
            }
        }
    }

    void atEnd(Runnable stop) {
        stops.push(stop);
    }

    @Override
    public void close() {
        stops.forEach(Runnable::run);
    }

    // What scenarios say.

    static Message message(String topic, String tags, String body) {
        return new Message(topic, tags, "key-" + body, body.getBytes(StandardCharsets.UTF_8));
    }

    static String body(Message message) {
        return new String(message.getBody(), StandardCharsets.UTF_8);
    }

    static List<String> bodies(Collection<? extends Message> messages) {
        return messages.stream().map(Stage::body).sorted().toList();
    }

    static List<String> sorted(Collection<String> texts) {
        return List.copyOf(new TreeSet<>(texts));
    }

    static void isOk(SendResult result) {
        same("send status", SendStatus.SEND_OK, result.getSendStatus());
        holds(result.getMsgId() != null && !result.getMsgId().isEmpty(), "a message id in " + result);
    }

    static void holds(boolean condition, String claim) {
        if (!condition) {
            throw new AssertionError("does not hold: " + claim);
        }
    }

    static void same(String what, Object expected, Object actual) {
        if (!Objects.equals(expected, actual)) {
            throw new AssertionError(what + ": expected " + expected + ", got " + actual);
        }
    }

    static void eventually(String what, BooleanSupplier condition) throws InterruptedException {
        long deadline = System.nanoTime() + WAIT_SECONDS * 1_000_000_000L;
        while (!condition.getAsBoolean()) {
            holds(System.nanoTime() < deadline, what + " within " + WAIT_SECONDS + " s");
            Thread.sleep(20);
        }
    }

    static void eventuallySame(String what, Object expected, Supplier<?> actual) throws InterruptedException {
        try {
            eventually(what, () -> Objects.equals(expected, actual.get()));
        } catch (AssertionError late) {
            same(what, expected, actual.get());
        }
    }

    /** Nothing changes for a while: what must not come would have come. */
    static void stays(String what, Object expected, Supplier<?> actual, long millis) throws InterruptedException {
        long end = System.nanoTime() + millis * 1_000_000L;
        while (System.nanoTime() < end) {
            same(what, expected, actual.get());
            Thread.sleep(50);
        }
    }
}
