package checkback.dashboard;

import static checkback.dashboard.Page.same;
import static checkback.dashboard.Page.shows;

import java.util.ArrayList;
import java.util.List;
import java.util.TreeSet;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.trace.TraceContext;
import org.apache.rocketmq.client.trace.TraceDataEncoder;
import org.apache.rocketmq.client.trace.TraceType;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.topic.TopicValidator;
import org.apache.rocketmq.remoting.protocol.body.CMResult;
import org.apache.rocketmq.tools.admin.api.TrackType;

/** The pages that find messages, dead letters and traces. */
final class Messages {
    private static final int AT_MOST = 64;
    private static final int A_PULL = 32;
    private static final String DEAD_LETTERS = "%DLQ%" + Scene.READERS;

    private Messages() {
    }

    static Page page(Scene scene) {
        String id = scene.first.getMsgId();
        String body = "order-" + (Scene.MESSAGES - 1);
        return new Page("Message")
            .row("fetchSubscribeMessageQueues, searchOffset, pull: by time", () -> {
                var bodies = new TreeSet<>(pulled(scene, Scene.TOPIC, 0, System.currentTimeMillis()).stream().map(Scene::body).toList());
                same(new TreeSet<>(List.of("order-0", "order-1", "order-2", "order-3", "order-4")), bodies);
                same(List.of(), pulled(scene, Scene.TOPIC, 0, 1000));
                return bodies;
            })
            .row("queryMessage: by key", () -> {
                var found = scene.admin.queryMessage(Scene.TOPIC, "key-" + body, AT_MOST, 0, System.currentTimeMillis());
                return same(List.of(body), found.getMessageList().stream().map(Scene::body).toList());
            })
            .row("getTopicClusterList, queryMessage: by unique key", () -> same(body, Scene.body(byUniqueKey(scene, Scene.TOPIC, id))))
            .row("viewMessage: by unique key", () -> same(body, Scene.body(scene.admin.viewMessage(Scene.TOPIC, id))))
            .row("viewMessage: by offset id", () -> {
                var message = scene.admin.viewMessage(Scene.TOPIC, scene.first.getOffsetMsgId());
                shows(message, message.getQueueOffset() == scene.first.getQueueOffset() && message.getStoreTimestamp() > 0);
                same("tag key-" + body, message.getTags() + " " + message.getKeys());
                return same(body, Scene.body(message));
            })
            .row("messageTrackDetail", () -> {
                var tracks = scene.admin.messageTrackDetail(byUniqueKey(scene, Scene.TOPIC, id));
                same(1, tracks.size());
                same(Scene.READERS, tracks.get(0).getConsumerGroup());
                return same(TrackType.CONSUMED, tracks.get(0).getTrackType());
            })
            .row("examineConsumerConnectionInfo, consumeMessageDirectly", () -> {
                var connections = scene.admin.examineConsumerConnectionInfo(Scene.READERS).getConnectionSet();
                String client = connections.iterator().next().getClientId();
                return consumedBy(scene, client, Scene.TOPIC, id);
            });
    }

    static Page deadLetters(Scene scene) {
        return new Page("DLQ")
            .row("examineTopicRouteInfo, no dead letters", () -> Topics.isUnknown(scene, "%DLQ%nobody"))
            .row("examineTopicRouteInfo", () -> same(1, scene.admin.examineTopicRouteInfo(DEAD_LETTERS).getQueueDatas().size()) + " broker")
            .row("fetchSubscribeMessageQueues, searchOffset, pull: by time", () -> same("order-0", Scene.body(deadLetter(scene))))
            .row("viewMessage: by unique key", () -> {
                String id = deadLetter(scene).getMsgId();
                return same("order-0", Scene.body(byUniqueKey(scene, DEAD_LETTERS, id)));
            })
            .row("consumeMessageDirectly: it is sent to its consumer again", () -> {
                var letter = deadLetter(scene);
                String topic = same(Scene.TOPIC, letter.getProperty("RETRY_TOPIC"));
                String origin = letter.getProperty("ORIGIN_MESSAGE_ID");
                return consumedBy(scene, scene.consumerId(), topic, shows(origin, origin != null));
            });
    }

    static Page traces(Scene scene) {
        return new Page("Trace")
            .row("queryMessage: of a message that was consumed", () -> {
                shows("its consumer", steps(scene, scene.first.getMsgId(), TraceType.SubBefore).get(0).getGroupName().equals(Scene.READERS));
                shows("its success", steps(scene, scene.first.getMsgId(), TraceType.SubAfter).stream().allMatch(TraceContext::isSuccess));
                var made = steps(scene, scene.first.getMsgId(), TraceType.Pub).get(0);
                same(Scene.TOPIC, made.getTraceBeans().get(0).getTopic());
                same(scene.first.getOffsetMsgId(), made.getTraceBeans().get(0).getOffsetMsgId());
                return same(Scene.MAKERS, made.getGroupName()) + " -> " + Scene.READERS;
            })
            .row("queryMessage: of a message that was given up", () -> {
                var after = steps(scene, scene.bad.getMsgId(), TraceType.SubAfter);
                return shows(after, after.stream().anyMatch(step -> !step.isSuccess())).size() + " attempts";
            })
            .row("queryMessage: of a transaction", () -> {
                var end = steps(scene, scene.half.getMsgId(), TraceType.EndTransaction).get(0);
                return same(LocalTransactionState.COMMIT_MESSAGE, end.getTraceBeans().get(0).getTransactionState());
            });
    }

    /** As pages read a topic of some time: every queue, from and to the offsets of those times. */
    private static List<MessageExt> pulled(Scene scene, String topic, long begin, long end) throws Exception {
        var found = new ArrayList<MessageExt>();
        for (var queue : scene.puller.fetchSubscribeMessageQueues(topic)) {
            long last = scene.puller.searchOffset(queue, end);
            for (long offset = scene.puller.searchOffset(queue, begin); offset <= last; ) {
                var pulled = scene.puller.pull(queue, "*", offset, A_PULL);
                if (pulled.getPullStatus() != PullStatus.FOUND) {
                    break;
                }
                pulled.getMsgFoundList().stream().filter(message -> message.getStoreTimestamp() <= end).forEach(found::add);
                offset = pulled.getNextBeginOffset();
            }
        }
        return found;
    }

    private static MessageExt deadLetter(Scene scene) throws Exception {
        var letters = pulled(scene, DEAD_LETTERS, 0, System.currentTimeMillis());
        same(1, letters.size());
        return letters.get(0);
    }

    /** In each cluster of the topic, at any time. */
    private static MessageExt byUniqueKey(Scene scene, String topic, String id) throws Exception {
        var queries = scene.admin.getDefaultMQAdminExtImpl().getMqClientInstance().getMQAdminImpl();
        String cluster = scene.admin.getTopicClusterList(topic).iterator().next();
        return queries.queryMessage(same(Scene.CLUSTER, cluster), topic, id, A_PULL, 0, Long.MAX_VALUE, true).getMessageList().get(0);
    }

    private static CMResult consumedBy(Scene scene, String client, String topic, String id) throws Exception {
        return same(CMResult.CR_SUCCESS, scene.admin.consumeMessageDirectly(Scene.READERS, client, topic, id).getConsumeResult());
    }

    /** What is told of a message, of one kind; not empty. */
    private static List<TraceContext> steps(Scene scene, String id, TraceType type) throws Exception {
        var found = scene.admin.queryMessage(TopicValidator.RMQ_SYS_TRACE_TOPIC, id, AT_MOST, 0, System.currentTimeMillis());
        var all = found.getMessageList().stream().flatMap(trace -> TraceDataEncoder.decoderFromTraceDataString(Scene.body(trace)).stream())
            .filter(step -> step.getTraceBeans().get(0).getMsgId().equals(id)).toList();
        var steps = all.stream().filter(step -> step.getTraceType() == type).toList();
        shows(type + " of " + all, !steps.isEmpty());
        return steps;
    }
}
