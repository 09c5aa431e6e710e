package checkback.dashboard;

import static checkback.dashboard.Page.same;
import static checkback.dashboard.Page.shows;

import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.remoting.protocol.ResponseCode;
import org.apache.rocketmq.remoting.protocol.subscription.SubscriptionGroupConfig;

/** The page that makes, shows, fills and removes topics, and sets groups back. */
final class Topics {
    private static final String MADE = "Made";

    private Topics() {
    }

    static Page page(Scene scene) {
        return new Page("Topic")
            .row("getSystemTopicList", () -> {
                var api = scene.producer.getDefaultMQProducerImpl().getMqClientFactory().getMQClientAPIImpl();
                var topics = api.getSystemTopicList(20_000).getTopicList();
                return shows(topics, topics.containsAll(List.of("TBW102", "SCHEDULE_TOPIC_XXXX", "RMQ_SYS_TRANS_HALF_TOPIC", Scene.BROKER)));
            })
            .row("createAndUpdateTopicConfig", () -> {
                scene.admin.createAndUpdateTopicConfig(scene.broker, Scene.topic(MADE, "NORMAL"));
                return MADE;
            })
            .row("fetchAllTopicList", () -> {
                var topics = scene.admin.fetchAllTopicList().getTopicList();
                return shows(topics, topics.containsAll(List.of(Scene.TOPIC, MADE, Scene.HALVES))).size() + " topics";
            })
            .row("getAllTopicConfig", () -> {
                var topics = scene.admin.getAllTopicConfig(scene.broker, 10_000).getTopicConfigTable();
                same("NORMAL", topics.get(Scene.TOPIC).getAttributes().get("message.type"));
                return same("TRANSACTION", topics.get(Scene.HALVES).getAttributes().get("message.type"));
            })
            .row("examineTopicRouteInfo", () -> {
                var route = scene.admin.examineTopicRouteInfo(MADE);
                same(4, route.getQueueDatas().get(0).getReadQueueNums());
                return same(Map.of(0L, scene.broker), route.getBrokerDatas().get(0).getBrokerAddrs());
            })
            .row("examineTopicConfig", () -> {
                var config = scene.admin.examineTopicConfig(scene.broker, Scene.HALVES);
                same("TRANSACTION", config.getAttributes().get("message.type"));
                return same(4, config.getWriteQueueNums()) + " queues";
            })
            .row("send", () -> scene.sendOnce(MADE, "from a page", false).getSendStatus())
            .row("sendMessageInTransaction", () -> scene.sendOnce(Scene.HALVES, "half from a page", true).getSendStatus())
            .row("examineTopicStats", () -> {
                shows(Scene.HALVES, messages(scene, Scene.HALVES) >= 2);
                shows(MADE, messages(scene, MADE) >= 1);
                return same((long) Scene.MESSAGES, messages(scene, Scene.TOPIC)) + " messages";
            })
            .row("queryTopicConsumeByWho", () -> {
                var groups = scene.admin.queryTopicConsumeByWho(Scene.TOPIC).getGroupList();
                return same(Set.of(Scene.READERS), Set.copyOf(groups));
            });
    }

    private static long messages(Scene scene, String topic) throws Exception {
        var queues = scene.admin.examineTopicStats(topic).getOffsetTable().values();
        return queues.stream().mapToLong(queue -> queue.getMaxOffset() - queue.getMinOffset()).sum();
    }

    /** After the other pages: what it sets back is consumed again. */
    static Page resets(Scene scene) {
        return new Page("Topic")
            .row("resetOffsetByTimestamp, back to the start", () -> offsets(scene, Scene.READERS, 0, 0))
            .row("resetOffsetByTimestamp, what has piled up is skipped", () -> offsets(scene, Scene.READERS, -1, Scene.MESSAGES))
            .row("resetOffsetByTimestampOld, nobody is online", () -> {
                var group = new SubscriptionGroupConfig();
                group.setGroupName("offline");
                scene.admin.createAndUpdateSubscriptionGroupConfig(scene.broker, group);
                try {
                    return "at once " + offsets(scene, group.getGroupName(), 0, 0);
                } catch (MQClientException offline) {
                    same(ResponseCode.CONSUMER_NOT_ONLINE, offline.getResponseCode());
                    return scene.admin.resetOffsetByTimestampOld(group.getGroupName(), Scene.TOPIC, 0, true).size() + " queues";
                }
            })
            .row("deleteTopicInBroker", () -> {
                scene.admin.deleteTopicInBroker(Set.of(scene.broker), MADE);
                var topics = scene.admin.getAllTopicConfig(scene.broker, 10_000).getTopicConfigTable();
                return shows(topics, !topics.containsKey(MADE)).size() + " topics left";
            })
            .row("deleteTopicInNameServer", () -> {
                scene.admin.deleteTopicInNameServer(Set.of(scene.nameServer), MADE);
                return isUnknown(scene, MADE);
            });
    }

    private static Map<MessageQueue, Long> offsets(Scene scene, String group, long time, long sum) throws Exception {
        var offsets = scene.admin.resetOffsetByTimestamp(Scene.TOPIC, group, time, true);
        return shows(offsets, offsets.size() == 4 && offsets.values().stream().mapToLong(Long::longValue).sum() == sum);
    }

    /** The answer by which pages tell that there is no such topic. */
    static String isUnknown(Scene scene, String topic) throws Exception {
        try {
            throw new AssertionError("a route of " + topic + ": " + scene.admin.examineTopicRouteInfo(topic));
        } catch (MQClientException unknown) {
            same(ResponseCode.TOPIC_NOT_EXIST, unknown.getResponseCode());
            return "no such topic";
        }
    }
}
