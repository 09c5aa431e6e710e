package checkback;

import static checkback.Stage.bodies;
import static checkback.Stage.eventuallySame;
import static checkback.Stage.holds;
import static checkback.Stage.isOk;
import static checkback.Stage.message;
import static checkback.Stage.same;
import static checkback.Stage.stays;

import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import org.apache.rocketmq.common.message.Message;

/** Messages with a time of their own, which may be taken back until then. */
final class Timers {
    private Timers() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("timer-delay", stage -> timer(stage, message -> message.setDelayTimeMs(3000)));
        all.put("timer-deliver-at",
            stage -> timer(stage, message -> message.setDeliverTimeMs(System.currentTimeMillis() + 3000)));
        all.put("timer-recall", Timers::recall);
    }

    private static void timer(Stage stage, Consumer<Message> delay) throws Exception {
        var producer = stage.producer();
        isOk(producer.send(message(stage.topic(), "tag", "now")));
        var seen = stage.reads(stage.topic(), "*");
        eventuallySame("messages", List.of("now"), () -> bodies(seen));
        var late = message(stage.topic(), "tag", "later");
        long sent = System.currentTimeMillis();
        delay.accept(late);
        isOk(producer.send(late));
        eventuallySame("messages", List.of("later", "now"), () -> bodies(seen));
        long waited = System.currentTimeMillis() - sent;
        holds(waited >= 2900, "delivered at its time, not after " + waited + " ms");
    }

    private static void recall(Stage stage) throws Exception {
        var producer = stage.producer();
        isOk(producer.send(message(stage.topic(), "tag", "now")));
        var seen = stage.reads(stage.topic(), "*");
        eventuallySame("messages", List.of("now"), () -> bodies(seen));
        var regretted = message(stage.topic(), "tag", "regretted");
        regretted.setDelayTimeMs(6000);
        var sent = producer.send(regretted);
        isOk(sent);
        same("recalled", sent.getMsgId(), producer.recallMessage(stage.topic(), sent.getRecallHandle()));
        stays("messages", List.of("now"), () -> bodies(seen), 8000);
    }
}
