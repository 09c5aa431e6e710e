package checkback;

import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * Orders that are written and published with half messages, as a Java service does it: the check table's row and the order
 * in one transaction, on a connection of each thread's own. Says when its measured time begins and ends, then when each
 * transaction was committed.
 */
final class Shop implements TransactionListener {
    private static final String TOPIC = "ORDER_PAID";

    private final String database;
    private final ThreadLocal<Connection> connections = new ThreadLocal<>();
    private final ConcurrentLinkedQueue<long[]> committed = new ConcurrentLinkedQueue<>();

    private Shop(String database) {
        this.database = database;
    }

    public static void main(String[] words) throws Exception {
        Map<String, String> options = new HashMap<>();
        for (int i = 0; i + 1 < words.length; i += 2) {
            options.put(words[i].substring(2), words[i + 1]);
        }
        new Shop(jdbc(options.get("database"))).run(options);
        System.exit(0);
    }

    /** From `postgres://user@host:port/name`. */
    private static String jdbc(String url) {
        String[] parts = url.substring("postgres://".length()).split("@", 2);
        return "jdbc:postgresql://" + parts[1] + "?user=" + parts[0];
    }

    private void run(Map<String, String> options) throws Exception {
        try (var statement = connection().createStatement()) {
            statement.execute("CREATE TABLE IF NOT EXISTS orders (id BIGINT PRIMARY KEY, amount BIGINT NOT NULL)");
            statement.execute("CREATE TABLE IF NOT EXISTS check_table (transaction_id TEXT PRIMARY KEY)");
            connection().commit();
        }
        var producer = new TransactionMQProducer("bench-shop");
        producer.setNamesrvAddr(options.get("name-servers"));
        producer.setTransactionListener(this);
        producer.start();

        long first = Long.parseLong(options.get("first-id"));
        long rate = Long.parseLong(options.get("rate"));
        double warmup = Double.parseDouble(options.get("warmup"));
        double seconds = Double.parseDouble(options.get("seconds"));
        int workers = Integer.parseInt(options.get("workers"));
        long began = System.nanoTime();
        long end = began + (long) ((warmup + seconds) * 1e9);
        var next = new AtomicLong();
        var pool = Executors.newFixedThreadPool(workers);
        List<Future<?>> running = new ArrayList<>();
        for (int worker = 0; worker < workers; worker++) {
            running.add(pool.submit(() -> {
                while (true) {
                    long number = next.getAndIncrement();
                    if (rate > 0) {
                        sleepUntil(began + number * 1_000_000_000L / rate);
                    }
                    if (System.nanoTime() >= end) {
                        return null;
                    }
                    long order = first + number;
                    var message = new Message(TOPIC, Long.toString(order).getBytes(StandardCharsets.UTF_8));
                    try {
                        producer.sendMessageInTransaction(message, order);
                    } catch (MQClientException refused) {
                        // Nothing happened: the next customer comes.
                        System.err.println("order " + order + ": " + refused.getMessage());
                    }
                }
            }));
        }
        sleepUntil(began + (long) (warmup * 1e9));
        System.out.println("begin " + unixMicros());
        sleepUntil(end);
        System.out.println("end " + unixMicros());
        for (Future<?> worker : running) {
            worker.get();
        }
        var out = new StringBuilder();
        for (long[] one : committed) {
            out.append(one[0]).append(' ').append(one[1]).append('\n');
        }
        System.out.print(out);
        System.out.flush();
    }

    @Override
    public LocalTransactionState executeLocalTransaction(Message message, Object argument) {
        long order = (Long) argument;
        try {
            var connection = connection();
            insert(connection, "INSERT INTO check_table (transaction_id) VALUES (?)", message.getTransactionId());
            insert(connection, "INSERT INTO orders (id, amount) VALUES (?, 100)", order);
            long at = unixMicros();
            connection.commit();
            committed.add(new long[] {order, at});
            return LocalTransactionState.COMMIT_MESSAGE;
        } catch (SQLException error) {
            error.printStackTrace();
            return LocalTransactionState.UNKNOW;
        }
    }

    @Override
    public LocalTransactionState checkLocalTransaction(MessageExt message) {
        try (PreparedStatement select = connection().prepareStatement("SELECT 1 FROM check_table WHERE transaction_id = ?")) {
            select.setString(1, message.getTransactionId());
            boolean found;
            try (var rows = select.executeQuery()) {
                found = rows.next();
            }
            connection().commit();
            return found ? LocalTransactionState.COMMIT_MESSAGE : LocalTransactionState.UNKNOW;
        } catch (SQLException error) {
            error.printStackTrace();
            return LocalTransactionState.UNKNOW;
        }
    }

    private static void insert(Connection connection, String sql, Object value) throws SQLException {
        try (PreparedStatement insert = connection.prepareStatement(sql)) {
            insert.setObject(1, value);
            insert.executeUpdate();
        }
    }

    private Connection connection() throws SQLException {
        if (connections.get() == null) {
            var connection = DriverManager.getConnection(database);
            connection.setAutoCommit(false);
            connections.set(connection);
        }
        return connections.get();
    }

    private static void sleepUntil(long nanos) {
        for (long left = nanos - System.nanoTime(); left > 0; left = nanos - System.nanoTime()) {
            LockSupport.parkNanos(left);
        }
    }

    private static long unixMicros() {
        return ChronoUnit.MICROS.between(Instant.EPOCH, Instant.now());
    }
}
