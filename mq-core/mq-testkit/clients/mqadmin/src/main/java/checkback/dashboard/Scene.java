package checkback.dashboard;

import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.rocketmq.client.ClientConfig;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragely;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.topic.TopicValidator;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/** A cluster with something to show: a topic, a traced producer and a traced consumer that gave up one message. */
final class Scene implements AutoCloseable {
    static final String BROKER = "broker-a";
    static final String CLUSTER = "DefaultCluster";
    static final String TOPIC = "Shop";
    static final String HALVES = "Halves";
    static final String MAKERS = "makers";
    static final String READERS = "readers";
    static final int MESSAGES = 5;
    private static final String BAD = "order-0";
    /** A call of one client that takes longer closes the connection under its others, which then fail. */
    private static final int CALL_MILLIS = 30_000;

    final String nameServer;
    final DefaultMQAdminExt admin;
    final String broker;
    final DefaultMQProducer producer;
    final SendResult first;
    final SendResult bad;
    final SendResult half;
    /** The one that pages read topics with. */
    final DefaultMQPullConsumer puller = new DefaultMQPullConsumer("TOOLS_CONSUMER");
    private final DefaultMQPushConsumer consumer;
    private final Set<String> givenUp = ConcurrentHashMap.newKeySet();

    Scene(String nameServer) throws Exception {
        this.nameServer = nameServer;
        admin = new DefaultMQAdminExt(CALL_MILLIS);
        prepare(admin, "dashboard");
        admin.start();
        broker = admin.examineBrokerClusterInfo().getBrokerAddrTable().get(BROKER).selectBrokerAddr();
        admin.createAndUpdateTopicConfig(broker, topic(TOPIC, "NORMAL"));
        admin.createAndUpdateTopicConfig(broker, topic(HALVES, "TRANSACTION"));
        half = sendOnce(HALVES, "a traced half", true);
        producer = producer(new DefaultMQProducer(MAKERS, null, true, TopicValidator.RMQ_SYS_TRACE_TOPIC), "made");
        bad = send(producer, TOPIC, BAD);
        SendResult good = null;
        for (int i = 1; i < MESSAGES; i++) {
            good = send(producer, TOPIC, "order-" + i);
        }
        first = good;
        consumer = new DefaultMQPushConsumer(READERS, null, new AllocateMessageQueueAveragely(), true, TopicValidator.RMQ_SYS_TRACE_TOPIC);
        prepare(consumer, "read");
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setMaxReconsumeTimes(0);
        consumer.setPersistConsumerOffsetInterval(200);
        consumer.subscribe(TOPIC, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> consumed(messages));
        consumer.start();
        prepare(puller, "pulling");
        puller.start();
    }

    private void prepare(ClientConfig client, String instance) {
        client.setNamesrvAddr(nameServer);
        client.setInstanceName(instance);
        client.setMqClientApiTimeout(CALL_MILLIS);
    }

    /** The first time a bad message is given up: it becomes a dead letter. */
    private ConsumeConcurrentlyStatus consumed(List<MessageExt> messages) {
        boolean bad = messages.stream().anyMatch(message -> body(message).equals(BAD) && givenUp.add(message.getMsgId()));
        return bad ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
    }

    /** As the page makes one: with the kind of its messages. */
    static TopicConfig topic(String name, String messageType) {
        var config = new TopicConfig(name, 4, 4);
        config.setAttributes(Map.of("+message.type", messageType));
        return config;
    }

    <P extends DefaultMQProducer> P producer(P producer, String instance) throws Exception {
        prepare(producer, instance);
        producer.setSendMsgTimeout(CALL_MILLIS);
        producer.start();
        return producer;
    }

    static Message message(String topic, String body) {
        return new Message(topic, "tag", "key-" + body, body.getBytes(StandardCharsets.UTF_8));
    }

    static String body(Message message) {
        return new String(message.getBody(), StandardCharsets.UTF_8);
    }

    private static SendResult send(DefaultMQProducer producer, String topic, String body) throws Exception {
        return ok(producer.send(message(topic, body)));
    }

    private static SendResult ok(SendResult sent) {
        return Page.shows(sent, sent.getSendStatus() == SendStatus.SEND_OK);
    }

    /** As the page sends one: with a producer of its own, traced, and in a transaction if the topic is of that kind. */
    SendResult sendOnce(String topic, String body, boolean inTransaction) throws Exception {
        String group = "SELF_TEST_P_GROUP";
        String instance = "sending-" + System.nanoTime();
        if (!inTransaction) {
            var once = producer(new DefaultMQProducer(group, null, true, TopicValidator.RMQ_SYS_TRACE_TOPIC), instance);
            try {
                return send(once, topic, body);
            } finally {
                once.shutdown();
            }
        }
        var once = new TransactionMQProducer(group, null, true, TopicValidator.RMQ_SYS_TRACE_TOPIC);
        once.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message message, Object argument) {
                return LocalTransactionState.COMMIT_MESSAGE;
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                return LocalTransactionState.COMMIT_MESSAGE;
            }
        });
        producer(once, instance);
        try {
            return ok(once.sendMessageInTransaction(message(topic, body), null));
        } finally {
            once.shutdown();
        }
    }

    String consumerId() {
        return consumer.getDefaultMQPushConsumerImpl().getmQClientFactory().getClientId();
    }

    String producerId() {
        return producer.getDefaultMQProducerImpl().getMqClientFactory().getClientId();
    }

    @Override
    public void close() {
        puller.shutdown();
        consumer.shutdown();
        producer.shutdown();
        admin.shutdown();
    }
}
