package checkback;

import static checkback.Stage.bodies;
import static checkback.Stage.body;
import static checkback.Stage.eventuallySame;
import static checkback.Stage.message;
import static checkback.Stage.same;
import static checkback.Stage.stays;

import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentLinkedQueue;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionSendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.sysflag.MessageSysFlag;

/** Half messages, their verdicts, and the broker asking back. */
final class Transactions {
    private static final LocalTransactionState COMMIT = LocalTransactionState.COMMIT_MESSAGE;
    private static final LocalTransactionState ROLLBACK = LocalTransactionState.ROLLBACK_MESSAGE;
    private static final LocalTransactionState UNKNOWN = LocalTransactionState.UNKNOW;

    private Transactions() {
    }

    static void register(Map<String, Scenario> all) {
        all.put("transaction-commit", stage -> ends(stage, true, COMMIT));
        all.put("transaction-rollback", stage -> ends(stage, false, ROLLBACK));
        all.put("transaction-check-commit", stage -> ends(stage, true, UNKNOWN, COMMIT));
        all.put("transaction-check-rollback", stage -> ends(stage, false, UNKNOWN, ROLLBACK));
        all.put("transaction-check-unknown-twice", stage -> ends(stage, true, UNKNOWN, UNKNOWN, UNKNOWN, COMMIT));
    }

    /** Says what it is told to: the first answer is the local transaction's, the others are those to checkbacks. */
    private static final class Script implements TransactionListener {
        private final List<LocalTransactionState> answers;
        final Collection<MessageExt> checks = new ConcurrentLinkedQueue<>();

        Script(LocalTransactionState... answers) {
            this.answers = List.of(answers);
        }

        @Override
        public LocalTransactionState executeLocalTransaction(Message message, Object argument) {
            return answers.get(0);
        }

        @Override
        public synchronized LocalTransactionState checkLocalTransaction(MessageExt message) {
            checks.add(message);
            return answers.get(Math.min(checks.size(), answers.size() - 1));
        }
    }

    private static void ends(Stage stage, boolean visible, LocalTransactionState... answers) throws Exception {
        var script = new Script(answers);
        var producer = stage.transactionProducer(script);
        var plain = stage.producer();
        Stage.isOk(plain.send(message(stage.topic(), "tag", "before")));
        var seen = stage.reads(stage.topic(), "*");
        eventuallySame("the topic is read", List.of("before"), () -> bodies(seen));

        Message half = message(stage.topic(), "tag", "in-transaction");
        half.putUserProperty("order", "42");
        TransactionSendResult result = producer.sendMessageInTransaction(half, null);
        same("status", SendStatus.SEND_OK, result.getSendStatus());
        same("local state", answers[0], result.getLocalTransactionState());

        int asked = answers.length - 1;
        eventuallySame("checks", asked, script.checks::size);
        for (MessageExt check : script.checks) {
            same("checked body", "in-transaction", body(check));
            same("checked topic", stage.topic(), check.getTopic());
            same("checked transaction", result.getTransactionId(), check.getTransactionId());
            same("checked property", "42", check.getUserProperty("order"));
        }
        List<String> expected = visible ? List.of("before", "in-transaction") : List.of("before");
        eventuallySame("messages", expected, () -> bodies(seen));
        stays("messages", expected, () -> bodies(seen), 2500);
        same("no check after the verdict", asked, script.checks.size());
        if (visible) {
            MessageExt committed = seen.stream().filter(m -> "in-transaction".equals(body(m))).findFirst().orElseThrow();
            same("transaction id", result.getTransactionId(), committed.getTransactionId());
            same("message id", result.getMsgId(), committed.getMsgId());
            same("user property", "42", committed.getUserProperty("order"));
            same("transaction bits", MessageSysFlag.TRANSACTION_COMMIT_TYPE,
                MessageSysFlag.getTransactionValue(committed.getSysFlag()));
        }
    }
}
