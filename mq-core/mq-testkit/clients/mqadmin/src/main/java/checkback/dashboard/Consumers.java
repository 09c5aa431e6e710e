package checkback.dashboard;

import static checkback.dashboard.Page.same;
import static checkback.dashboard.Page.shows;

import java.util.Set;
import java.util.stream.Collectors;
import org.apache.rocketmq.remoting.protocol.admin.ConsumeStats;
import org.apache.rocketmq.remoting.protocol.body.Connection;
import org.apache.rocketmq.remoting.protocol.body.ConsumerConnection;
import org.apache.rocketmq.remoting.protocol.subscription.SubscriptionGroupConfig;

/** The pages about groups and those who are in them. */
final class Consumers {
    private static final String MADE = "made-group";

    private Consumers() {
    }

    static Page page(Scene scene) {
        return new Page("Consumer")
            .row("getAllSubscriptionGroup", () -> {
                var groups = scene.admin.getAllSubscriptionGroup(scene.broker, 30_000).getSubscriptionGroupTable();
                return shows(groups, groups.containsKey(Scene.READERS)).size() + " groups";
            })
            .row("examineConsumeStats(group)", () -> caughtUp(scene.admin.examineConsumeStats(Scene.READERS)))
            .row("examineConsumeStats(group, topic)", () -> caughtUp(scene.admin.examineConsumeStats(Scene.READERS, Scene.TOPIC)))
            .row("examineConsumeStats(broker, group, all topics)",
                () -> caughtUp(scene.admin.examineConsumeStats(scene.broker, Scene.READERS, null, 30_000)))
            .row("examineConsumerConnectionInfo(group)", () -> connected(scene, scene.admin.examineConsumerConnectionInfo(Scene.READERS)))
            .row("examineConsumerConnectionInfo(group, broker)",
                () -> connected(scene, scene.admin.examineConsumerConnectionInfo(Scene.READERS, scene.broker)))
            .row("getConsumerRunningInfo", () -> {
                var info = scene.admin.getConsumerRunningInfo(Scene.READERS, scene.consumerId(), false);
                var queues = info.getMqTable().keySet().stream().filter(queue -> queue.getTopic().equals(Scene.TOPIC)).count();
                shows(info, info.getSubscriptionSet().stream().anyMatch(topic -> topic.getTopic().equals(Scene.TOPIC)));
                shows(info, info.getStatusTable().containsKey(Scene.TOPIC) && info.getJstack() == null);
                return same(4L, queues) + " queues";
            })
            .row("getConsumerRunningInfo with its threads", () -> {
                var threads = scene.admin.getConsumerRunningInfo(Scene.READERS, scene.consumerId(), true).getJstack();
                return shows(threads, threads.contains("ConsumeMessageThread")).lines().count() + " lines";
            })
            .row("createAndUpdateSubscriptionGroupConfig", () -> {
                var config = new SubscriptionGroupConfig();
                config.setGroupName(MADE);
                config.setRetryMaxTimes(3);
                config.setConsumeMessageOrderly(true);
                scene.admin.createAndUpdateSubscriptionGroupConfig(scene.broker, config);
                return MADE;
            })
            .row("examineSubscriptionGroupConfig", () -> {
                var config = scene.admin.examineSubscriptionGroupConfig(scene.broker, MADE);
                same(true, config.isConsumeMessageOrderly());
                return same(3, config.getRetryMaxTimes()) + " retries";
            })
            .row("deleteSubscriptionGroup", () -> {
                scene.admin.deleteSubscriptionGroup(scene.broker, MADE, true);
                var groups = scene.admin.getAllSubscriptionGroup(scene.broker, 30_000).getSubscriptionGroupTable();
                return shows(groups, !groups.containsKey(MADE)).size() + " groups left";
            })
            .row("deleteTopicInBroker, deleteTopicInNameServer of its retries and dead letters", () -> {
                for (String topic : Set.of("%RETRY%" + MADE, "%DLQ%" + MADE)) {
                    scene.admin.deleteTopicInBroker(Set.of(scene.broker), topic);
                    scene.admin.deleteTopicInNameServer(Set.of(scene.nameServer), topic);
                    Topics.isUnknown(scene, topic);
                }
                return "gone";
            });
    }

    /** Of each queue: where the broker is, where the group is, and since when. */
    private static String caughtUp(ConsumeStats stats) {
        var queues = stats.getOffsetTable();
        var ofTopic = queues.keySet().stream().filter(queue -> queue.getTopic().equals(Scene.TOPIC)).collect(Collectors.toSet());
        same(4, ofTopic.size());
        long consumed = ofTopic.stream().mapToLong(queue -> queues.get(queue).getConsumerOffset()).sum();
        shows(queues, ofTopic.stream().anyMatch(queue -> queues.get(queue).getLastTimestamp() > 0));
        same((long) Scene.MESSAGES, consumed);
        return consumed + " consumed, " + same(0L, stats.computeTotalDiff()) + " left, " + stats.getConsumeTps() + " per second";
    }

    private static String connected(Scene scene, ConsumerConnection connection) {
        var clients = connection.getConnectionSet().stream().map(Connection::getClientId).collect(Collectors.toSet());
        same(Set.of(scene.consumerId()), clients);
        shows(connection, connection.getSubscriptionTable().containsKey(Scene.TOPIC));
        return connection.getConsumeType() + ", " + connection.getMessageModel() + ", " + connection.getConsumeFromWhere();
    }

    static Page producers(Scene scene) {
        return new Page("Producer").row("examineProducerConnectionInfo", () -> {
            var connections = scene.admin.examineProducerConnectionInfo(Scene.MAKERS, Scene.TOPIC).getConnectionSet();
            var clients = connections.stream().map(Connection::getClientId).collect(Collectors.toSet());
            return same(Set.of(scene.producerId()), clients);
        });
    }
}
