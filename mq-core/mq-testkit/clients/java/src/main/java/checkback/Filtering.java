package checkback;

import static checkback.Stage.bodies;
import static checkback.Stage.eventually;
import static checkback.Stage.eventuallySame;
import static checkback.Stage.holds;
import static checkback.Stage.isOk;
import static checkback.Stage.listener;
import static checkback.Stage.message;
import static checkback.Stage.same;
import static checkback.Stage.stays;

import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentLinkedQueue;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.MessageExt;

/** SQL92 filters: the broker compiles and evaluates them, the client only names them. */
final class Filtering {
    private Filtering() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("filter-sql", Filtering::sql);
        all.put("filter-sql-long-poll", Filtering::longPoll);
        all.put("filter-sql-pull", Filtering::pull);
        all.put("filter-sql-refused", Filtering::refused);
    }

    private static void send(Stage stage, String body, String tag, int price) throws Exception {
        send(stage.producer(), stage, body, tag, price);
    }

    private static void send(DefaultMQProducer producer, Stage stage, String body, String tag, int price)
            throws Exception {
        var message = message(stage.topic(), tag, body);
        message.putUserProperty("price", Integer.toString(price));
        isOk(producer.send(message));
    }

    private static ConcurrentLinkedQueue<MessageExt> consume(Stage stage, String expression) throws Exception {
        var seen = new ConcurrentLinkedQueue<MessageExt>();
        var consumer = stage.consumer(stage.group("sql"), stage.topic(), "*");
        consumer.subscribe(stage.topic(), MessageSelector.bySql(expression));
        consumer.registerMessageListener(listener(seen::add));
        consumer.start();
        return seen;
    }

    private static void sql(Stage stage) throws Exception {
        var producer = stage.producer();
        for (int price = 1; price <= 10; price++) {
            send(producer, stage, "p" + price, price % 2 == 0 ? "even" : "odd", price);
        }
        var seen = consume(stage, "(TAGS = 'even' AND price BETWEEN 3 AND 7) OR price IN ('1', '9') OR price > 100");
        eventuallySame("messages", List.of("p1", "p4", "p6", "p9"), () -> bodies(seen));
        stays("messages", List.of("p1", "p4", "p6", "p9"), () -> bodies(seen), 500);
    }

    private static void longPoll(Stage stage) throws Exception {
        send(stage, "before", "t", 1);
        var seen = consume(stage, "price IS NOT NULL AND price >= 5");
        send(stage, "cheap", "t", 2);
        send(stage, "dear", "t", 6);
        eventuallySame("messages", List.of("dear"), () -> bodies(seen));
    }

    private static void pull(Stage stage) throws Exception {
        send(stage, "cheap", "t", 2);
        send(stage, "dear", "t", 6);
        var consumer = new DefaultLitePullConsumer(stage.group("pull"));
        consumer.subscribe(stage.topic(), MessageSelector.bySql("price > 5"));
        stage.started(consumer);
        var seen = new ConcurrentLinkedQueue<MessageExt>();
        eventuallySame("messages", List.of("dear"), () -> {
            seen.addAll(consumer.poll(100));
            return bodies(seen);
        });
    }

    private static void refused(Stage stage) throws Exception {
        var producer = stage.producer();
        send(producer, stage, "first", "t", 1);
        // A client that finds no broker of the topic starts unchecked, and a route takes a moment to the name server.
        eventually("a route", () -> isRouted(producer, stage.topic()));
        try {
            consume(stage, "price >");
        } catch (MQClientException refused) {
            same("code", 23, refused.getResponseCode());
            holds(refused.getErrorMessage().contains("a value is expected"), "a reason in " + refused);
            return;
        }
        throw new AssertionError("a filter that cannot be read was taken");
    }

    private static boolean isRouted(DefaultMQProducer producer, String topic) {
        try {
            return !producer.fetchPublishMessageQueues(topic).isEmpty();
        } catch (MQClientException notYet) {
            return false;
        }
    }
}
