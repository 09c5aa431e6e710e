package checkback;

import static checkback.Stage.body;
import static checkback.Stage.eventually;
import static checkback.Stage.isOk;
import static checkback.Stage.listener;
import static checkback.Stage.message;

import java.util.Map;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragely;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;

/** Message traces: what producers and consumers tell of each message, in a topic of its own. */
final class Tracing {
    private static final String TRACES = "RMQ_SYS_TRACE_TOPIC";

    private Tracing() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("trace", Tracing::trace);
    }

    private static void trace(Stage stage) throws Exception {
        var producer = new DefaultMQProducer(stage.group("traced"), null, true, null);
        stage.started(producer);
        var sent = producer.send(message(stage.topic(), "tag", "followed"));
        isOk(sent);
        var consumer = new DefaultMQPushConsumer(stage.group("following"), null, new AllocateMessageQueueAveragely(), true, null);
        stage.prepare(consumer);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(stage.topic(), "*");
        consumer.registerMessageListener(listener(ignored -> { }));
        consumer.start();
        stage.atEnd(consumer::shutdown);

        var traces = stage.reads(TRACES, "*");
        for (String step : new String[] {"Pub", "SubBefore", "SubAfter"}) {
            eventually(step + " of the message", () -> traces.stream()
                .anyMatch(trace -> body(trace).contains(sent.getMsgId()) && body(trace).contains(step)));
        }
    }
}
