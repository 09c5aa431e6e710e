package checkback.dashboard;

import java.util.ArrayList;
import java.util.List;

/** A page of RocketMQ Dashboard: the calls that it makes, in its order, and what each must bring for the page to show. */
final class Page {
    /** What a busy machine may take until a call shows what it must: statistics are counted every 10 s. */
    private static final int WAIT_SECONDS = 120;

    /** Makes the call and says what the page shows; throws if it cannot. */
    interface Call {
        Object shown() throws Exception;
    }

    private record Row(String call, Call shown) {
    }

    private final String name;
    private final List<Row> rows = new ArrayList<>();

    Page(String name) {
        this.name = name;
    }

    Page row(String call, Call shown) {
        rows.add(new Row(call, shown));
        return this;
    }

    /** Prints a line for each call. */
    boolean opens() throws InterruptedException {
        boolean green = true;
        for (Row row : rows) {
            green &= passes(row);
        }
        return green;
    }

    /** A page that comes too early is loaded again. */
    private boolean passes(Row row) throws InterruptedException {
        long started = System.nanoTime();
        while (true) {
            try {
                Object shown = row.shown.shown();
                System.out.printf("PASS %s: %s -> %s (%d ms)%n", name, row.call, shown, (System.nanoTime() - started) / 1_000_000);
                return true;
            } catch (Exception | AssertionError failure) {
                if (System.nanoTime() - started > WAIT_SECONDS * 1_000_000_000L) {
                    System.out.printf("FAIL %s: %s: %s%n", name, row.call, failure);
                    failure.printStackTrace();
                    return false;
                }
            }
            Thread.sleep(50);
        }
    }

    // What pages say.

    static <T> T shows(T shown, boolean holds) {
        if (!holds) {
            throw new AssertionError("not what the page shows: " + shown);
        }
        return shown;
    }

    static <T> T same(T expected, T shown) {
        return shows(shown, expected.equals(shown));
    }
}
