package checkback;

import java.nio.charset.StandardCharsets;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * One transaction of the official producer on a broker whose replica does not answer:
 * {@code java -cp java-clients.jar checkback.Unreplicated HOST:PORT TOPIC BODY SECONDS}. Its last line says what the service
 * was told, what the client gave as the verdict, how often the local transaction ran, and how often it was asked in the
 * seconds after.
 */
final class Unreplicated implements TransactionListener {
    private final AtomicInteger ran = new AtomicInteger();
    private final AtomicInteger asked = new AtomicInteger();

    private Unreplicated() {
    }

    public static void main(String[] words) throws Exception {
        var listener = new Unreplicated();
        var producer = new TransactionMQProducer("replay-java");
        producer.setNamesrvAddr(words[0]);
        producer.setSendMsgTimeout(Stage.CALL_MILLIS);
        producer.setTransactionListener(listener);
        producer.start();
        String told;
        String verdict;
        try {
            var sent = producer.sendMessageInTransaction(new Message(words[1], words[2].getBytes(StandardCharsets.UTF_8)), null);
            told = sent.getSendStatus().name();
            verdict = sent.getLocalTransactionState().name();
        } catch (MQClientException failed) {
            told = "an exception";
            verdict = "none";
        }
        Thread.sleep(Integer.parseInt(words[3]) * 1000L);
        System.out.printf("%s;%s;%d;%d%n", told, verdict, listener.ran.get(), listener.asked.get());
        System.exit(0);
    }

    @Override
    public LocalTransactionState executeLocalTransaction(Message message, Object argument) {
        ran.incrementAndGet();
        return LocalTransactionState.COMMIT_MESSAGE;
    }

    @Override
    public LocalTransactionState checkLocalTransaction(MessageExt message) {
        asked.incrementAndGet();
        return ran.get() > 0 ? LocalTransactionState.COMMIT_MESSAGE : LocalTransactionState.UNKNOW;
    }
}
