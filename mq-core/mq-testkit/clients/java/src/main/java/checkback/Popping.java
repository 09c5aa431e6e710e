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
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.AckCallback;
import org.apache.rocketmq.client.consumer.AckResult;
import org.apache.rocketmq.client.consumer.AckStatus;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PopCallback;
import org.apache.rocketmq.client.consumer.PopResult;
import org.apache.rocketmq.client.consumer.PopStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.impl.MQClientAPIImpl;
import org.apache.rocketmq.client.impl.factory.MQClientInstance;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.common.message.MessageRequestMode;
import org.apache.rocketmq.remoting.protocol.header.AckMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.ChangeInvisibleTimeRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.ExtraInfoUtil;
import org.apache.rocketmq.remoting.protocol.header.PopMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.subscription.SubscriptionGroupConfig;

/** Consumers whose queues the broker shares out, and that pop instead of pulling. */
final class Popping {
    private static final int PATIENCE_MILLIS = 30_000;

    private Popping() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("assigned-pull", Popping::assignedPull);
        all.put("pop-consume", Popping::consume);
        all.put("pop-retry", Popping::retry);
        all.put("pop-dead-letter", Popping::deadLetter);
        all.put("pop-orderly", Popping::orderly);
        all.put("pop-change-invisible-time", Popping::changeInvisibleTime);
    }

    /** The broker that has the topic, as a producer reached it. */
    private static final class Broker {
        final DefaultMQProducer producer;
        final MQClientAPIImpl api;
        final String name;
        final String address;
        final String topic;

        Broker(Stage stage) throws Exception {
            topic = stage.topic();
            producer = stage.producer();
            var sent = producer.send(message(topic, "tag", "0"));
            isOk(sent);
            name = sent.getMessageQueue().getBrokerName();
            MQClientInstance client = producer.getDefaultMQProducerImpl().getMqClientFactory();
            address = client.findBrokerAddressInPublish(name);
            api = client.getMQClientAPIImpl();
        }

        void group(String group, MessageRequestMode mode, int retryMaxTimes) throws Exception {
            var config = new SubscriptionGroupConfig();
            config.setGroupName(group);
            config.setRetryMaxTimes(retryMaxTimes);
            api.createSubscriptionGroup(address, config, PATIENCE_MILLIS);
            api.setMessageRequestMode(address, topic, group, mode, 0, PATIENCE_MILLIS);
        }
    }

    private static DefaultMQPushConsumer member(Stage stage, String group) throws Exception {
        var consumer = stage.consumer(group, stage.topic(), "*");
        consumer.setClientRebalance(false);
        return consumer;
    }

    /** Who joins takes queues before their former member committed: what that one had may come twice, nothing later. */
    private static void assignedPull(Stage stage) throws Exception {
        var members = shared(stage, MessageRequestMode.PULL);
        var topic = stage.topic();
        var producer = stage.producer();
        var all = new TreeSet<>(producer.fetchPublishMessageQueues(topic));
        eventually("a share of the queues for each member, and no queue with two", () -> {
            var held = members.consumers.stream().map(consumer -> held(consumer, topic)).toList();
            var each = new TreeSet<MessageQueue>();
            held.forEach(each::addAll);
            return each.equals(all) && held.stream().noneMatch(Set::isEmpty) && held.stream().mapToInt(Set::size).sum() == all.size();
        });
        var settled = new ArrayList<String>();
        for (int i = 100; i < 140; i++) {
            isOk(producer.send(message(topic, "tag", "" + i)));
            settled.add("" + i);
        }
        Supplier<List<String>> since = () -> bodies(members.seen).stream().filter(settled::contains).toList();
        eventuallySame("messages once the members are settled", settled, since);
        stays("messages once the members are settled", settled, since, 1500);
    }

    private static Set<MessageQueue> held(DefaultMQPushConsumer consumer, String topic) {
        return consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().entrySet().stream()
            .filter(held -> held.getKey().getTopic().equals(topic) && !held.getValue().isDropped())
            .map(Map.Entry::getKey).collect(Collectors.toSet());
    }

    private static void consume(Stage stage) throws Exception {
        shared(stage, MessageRequestMode.POP);
    }

    /** Consumers of one group, and what any of them saw. */
    private static final class Members {
        final List<DefaultMQPushConsumer> consumers = new ArrayList<>();
        final Collection<MessageExt> seen = new ConcurrentLinkedQueue<>();
    }

    private static Members shared(Stage stage, MessageRequestMode mode) throws Exception {
        var broker = new Broker(stage);
        var group = stage.group("members");
        broker.group(group, mode, 16);
        var members = new Members();
        var seen = members.seen;
        var expected = new TreeSet<>(List.of("0"));
        for (int member = 0; member < 2; member++) {
            var consumer = member(stage, group);
            consumer.registerMessageListener(listener(seen::add));
            consumer.start();
            members.consumers.add(consumer);
        }
        for (int i = 1; i < 40; i++) {
            isOk(broker.producer.send(message(stage.topic(), "tag", "" + i)));
            expected.add("" + i);
        }
        eventually("every message", () -> new TreeSet<>(bodies(seen)).equals(expected));
        boolean popped = seen.stream().allMatch(message -> message.getProperty(MessageConst.PROPERTY_POP_CK) != null);
        same("popped", mode == MessageRequestMode.POP, popped);
        holds(seen.stream().allMatch(message -> message.getTopic().equals(stage.topic())), "the topic of each");
        return members;
    }

    private static void retry(Stage stage) throws Exception {
        var broker = new Broker(stage);
        var group = stage.group("retry");
        broker.group(group, MessageRequestMode.POP, 16);
        var attempts = new ConcurrentLinkedQueue<String>();
        var consumer = member(stage, group);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(message -> attempts.add(message.getTopic() + " " + body(message) + " " + message.getReconsumeTimes()));
            return messages.get(0).getReconsumeTimes() == 0 ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        // The client's own table makes the first retry wait 10 s.
        var both = List.of(stage.topic() + " 0 0", stage.topic() + " 0 1");
        eventuallySame("attempts", both, () -> List.copyOf(attempts));
        stays("attempts", both, () -> List.copyOf(attempts), 1500);
    }

    private static void deadLetter(Stage stage) throws Exception {
        var broker = new Broker(stage);
        var group = stage.group("dead");
        broker.group(group, MessageRequestMode.POP, 0);
        var attempts = new ConcurrentLinkedQueue<Integer>();
        var consumer = member(stage, group);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(message -> attempts.add(message.getReconsumeTimes()));
            return ConsumeConcurrentlyStatus.RECONSUME_LATER;
        });
        consumer.start();
        var letters = new MessageQueue("%DLQ%" + group, broker.name, 0);
        eventuallySame("dead letters", 1L, () -> {
            try {
                return broker.producer.maxOffset(letters);
            } catch (Exception notYet) {
                return 0L;
            }
        });
        var dead = stage.reads("%DLQ%" + group, "*");
        eventuallySame("dead letters", List.of("0"), () -> bodies(dead));
        same("where it comes from", stage.topic(), dead.iterator().next().getProperty(MessageConst.PROPERTY_DLQ_ORIGIN_TOPIC));
        same("attempts", List.of(0), List.copyOf(attempts));
    }

    /** The push consumer does not pop in order yet; its API does. */
    private static void orderly(Stage stage) throws Exception {
        var broker = new Broker(stage);
        var group = stage.group("orderly");
        broker.group(group, MessageRequestMode.POP, 16);
        var first = pop(broker, group, true, 5_000);
        same("the first", List.of("0"), bodies(first.getMsgFoundList()));
        var queue = first.getMsgFoundList().get(0).getQueueId();
        isOk(broker.producer.send(message(stage.topic(), "tag", "1"), (queues, message, argument) -> queues.stream().filter(q -> q.getQueueId() == queue).findFirst().orElseThrow(), null));
        same("the queue waits", PopStatus.POLLING_NOT_FOUND, pop(broker, group, true, 500).getPopStatus());
        ack(broker, group, first.getMsgFoundList().get(0));
        var second = pop(broker, group, true, 15_000);
        same("the next", List.of("1"), bodies(second.getMsgFoundList()));
        // Nobody acknowledges it: it comes again in its place, and says how often.
        var again = pop(broker, group, true, 15_000).getMsgFoundList().get(0);
        same("the next again", "1 1", body(again) + " " + again.getReconsumeTimes());
        ack(broker, group, again);
    }

    private static void changeInvisibleTime(Stage stage) throws Exception {
        var broker = new Broker(stage);
        var group = stage.group("change");
        broker.group(group, MessageRequestMode.POP, 16);
        var popped = pop(broker, group, false, 5_000).getMsgFoundList().get(0);
        var handle = ExtraInfoUtil.split(popped.getProperty(MessageConst.PROPERTY_POP_CK));
        var header = new ChangeInvisibleTimeRequestHeader();
        header.setConsumerGroup(group);
        header.setTopic(ExtraInfoUtil.getRealTopic(handle, broker.topic, group));
        header.setQueueId(popped.getQueueId());
        header.setOffset(popped.getQueueOffset());
        header.setExtraInfo(popped.getProperty(MessageConst.PROPERTY_POP_CK));
        header.setInvisibleTime(1_000L);
        var changed = new CompletableFuture<AckResult>();
        broker.api.changeInvisibleTimeAsync(broker.name, broker.address, header, PATIENCE_MILLIS, callback(changed));
        var result = changed.get(PATIENCE_MILLIS, TimeUnit.MILLISECONDS);
        same("changed", AckStatus.OK, result.getStatus());
        holds(!result.getExtraInfo().equals(header.getExtraInfo()), "a new handle");
        var again = pop(broker, group, false, 15_000).getMsgFoundList().get(0);
        same("the message again", "0 1", body(again) + " " + again.getReconsumeTimes());
        ack(broker, group, again);
        same("nothing is left", PopStatus.POLLING_NOT_FOUND, pop(broker, group, false, 1_500).getPopStatus());
    }

    private static PopResult pop(Broker broker, String group, boolean order, long wait) throws Exception {
        var header = new PopMessageRequestHeader();
        header.setConsumerGroup(group);
        header.setTopic(broker.topic);
        header.setQueueId(-1);
        header.setMaxMsgNums(1);
        header.setInvisibleTime(5_000);
        header.setPollTime(wait);
        header.setBornTime(System.currentTimeMillis());
        header.setInitMode(0);
        header.setOrder(order);
        var popped = new CompletableFuture<PopResult>();
        broker.api.popMessageAsync(broker.name, broker.address, header, PATIENCE_MILLIS, new PopCallback() {
            @Override
            public void onSuccess(PopResult result) {
                popped.complete(result);
            }

            @Override
            public void onException(Throwable error) {
                popped.completeExceptionally(error);
            }
        });
        return popped.get(PATIENCE_MILLIS, TimeUnit.MILLISECONDS);
    }

    private static void ack(Broker broker, String group, MessageExt message) throws Exception {
        var handle = ExtraInfoUtil.split(message.getProperty(MessageConst.PROPERTY_POP_CK));
        var header = new AckMessageRequestHeader();
        header.setConsumerGroup(group);
        header.setTopic(ExtraInfoUtil.getRealTopic(handle, broker.topic, group));
        header.setQueueId(message.getQueueId());
        header.setOffset(message.getQueueOffset());
        header.setExtraInfo(message.getProperty(MessageConst.PROPERTY_POP_CK));
        var acked = new CompletableFuture<AckResult>();
        broker.api.ackMessageAsync(broker.address, PATIENCE_MILLIS, callback(acked), header);
        same("acknowledged", AckStatus.OK, acked.get(PATIENCE_MILLIS, TimeUnit.MILLISECONDS).getStatus());
    }

    private static AckCallback callback(CompletableFuture<AckResult> future) {
        return new AckCallback() {
            @Override
            public void onSuccess(AckResult result) {
                future.complete(result);
            }

            @Override
            public void onException(Throwable error) {
                future.completeExceptionally(error);
            }
        };
    }
}
